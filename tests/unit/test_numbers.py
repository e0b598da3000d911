"""Every number among the settings: what means nothing is refused."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

from ais.runtime.settings import SettingsError
from ais.settings import Settings, load
from ais_core.objective_settings import ObjectiveName

UNBOUNDED = {
    "correction.cap": "truncates nothing",
    "correction.upper": "keeps all above the lower bound",
    "correction.mixing.mismatch_limit": "switches the guard off",
}
"""Numbers that may be infinite, and what that means."""


def numbers(owner: Any, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Dotted keys of all settings that hold a number, and its type."""
    if issubclass(owner, BaseModel):
        fields = {name: field.annotation for name, field in owner.model_fields.items()}
    else:
        hints = get_type_hints(owner)
        fields = {field.name: hints[field.name] for field in dataclasses.fields(owner)}
    for name, annotation in fields.items():
        members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        for member in members:
            if isinstance(member, type) and (issubclass(member, BaseModel) or dataclasses.is_dataclass(member)):
                yield from numbers(member, f"{prefix}{name}.")
            elif member in (int, float):
                yield prefix + name, member


NUMBERS = dict(numbers(Settings))
DATACLASSES = ("correction.", *(f"trainer.objective.{name}." for name in get_args(ObjectiveName)))
"""Where the settings are the library's own."""
NEGATIVE = {"correction.lower", "correction.upper", "evaluation.pass_reward", "collector.task.environment.enough"}
"""Numbers that may be below 0: bounds of a log-ratio, and rewards."""


def refused(keys: Iterable[str], value: str) -> set[str]:
    """Those of `keys` that may not have the value."""
    keys = list(keys)
    told = complaint([f"{key}={value}" for key in keys if not key.startswith(DATACLASSES)])
    found = set(re.findall(r"^setting ([\w.]+): ", told, re.MULTILINE)) & set(keys)
    for key in keys:
        # A dataclass names its first fault only, and the bounds belong to certain methods.
        if key.startswith(DATACLASSES) and complaint(["correction.method=mis", f"{key}={value}"]):
            found.add(key)
    return found


def complaint(overrides: list[str]) -> str:
    try:
        load(None, overrides)
    except SettingsError as error:
        return str(error)
    return ""


def test_there_are_numbers_in_every_section() -> None:
    assert {key.partition(".")[0] for key in NUMBERS} == {
        "run", "redis", "rollout", "collector", "agent", "trainer", "correction", "launcher", "tracking", "evaluation",
    }  # fmt: skip
    assert len(NUMBERS) > 70


@pytest.mark.parametrize("value", ["nan", "true", "", "[1]", "x"])
def test_what_is_no_number_is_refused(value: str) -> None:
    assert refused(NUMBERS, value) == set(NUMBERS)


@pytest.mark.parametrize("value", ["-1", "-0.001", "-1e300"])
def test_what_is_below_nothing_is_refused(value: str) -> None:
    positive = set(NUMBERS) - NEGATIVE
    assert refused(positive, value) == positive


@pytest.mark.parametrize("value", ["inf", "1e400"])
def test_infinity_is_refused_where_it_means_nothing(value: str) -> None:
    assert refused(NUMBERS, value) == set(NUMBERS) - set(UNBOUNDED)


@pytest.mark.parametrize("digits", [1000, 5000])
def test_a_number_without_end_is_refused(digits: int) -> None:
    assert refused(NUMBERS, "1" * digits) >= set(NUMBERS) - set(UNBOUNDED)


@pytest.mark.parametrize("value", ["1.5", str(2**64), "1e10"])
def test_a_number_of_things_is_whole_and_fits_a_machine(value: str) -> None:
    counts = {key for key, kind in NUMBERS.items() if kind is int}
    assert refused(counts, value) == counts - ({"trainer.push.shard_bytes"} if value == "1e10" else set()) - (
        {"collector.sampling.seed"} if value == "1e10" else set()
    )


@pytest.mark.parametrize("value", ["1e9", "1e300"])
def test_a_time_is_one_that_timers_take(value: str) -> None:
    times = {key for key in NUMBERS if key.endswith("_seconds")}
    assert refused(times, value) == times


@pytest.mark.parametrize("value", ["0", "1e-38", "0.009"])
def test_a_temperature_that_leaves_one_token_possible_is_refused(value: str) -> None:
    assert "sampling.temperature" in complaint([f"collector.sampling.temperature={value}"])


def test_an_update_needs_a_group_of_its_own() -> None:
    four = "run.groups_per_batch=4"
    assert load(None, [four, "trainer.objective.updates_per_batch=4"]).trainer.objective.updates_per_batch == 4
    with pytest.raises(SettingsError, match=r"updates_per_batch = 5 is more than run.groups_per_batch = 4"):
        load(None, [four, "trainer.objective.updates_per_batch=5"])


@pytest.mark.parametrize("other", ["straight_through=true", "centring=true"])
def test_turns_of_the_sampling_policy_are_refused_where_each_step_computes_it(other: str) -> None:
    settings = ["trainer.objective.straight_through_every=4", f"trainer.objective.{other}", "correction.method=none"]
    assert "straight_through_every = 4" in complaint(settings)


@pytest.mark.parametrize(
    "others",
    [
        ("correction.method=vcpo",),
        ("correction.method=geometric_mask",),
        ('correction.rejections=[{statistic = "k2", over = "token", upper = 1.0}]',),
        ("trainer.objective.name=policy_gradient", "run.max_staleness=1"),
    ],
)
def test_turns_of_the_sampling_policy_are_refused_where_they_would_pass_over_what_was_asked_for(
    others: tuple[str, ...],
) -> None:
    assert "straight_through_every = 4" in complaint(["trainer.objective.straight_through_every=4", *others])


@pytest.mark.parametrize("other", ["entropy_coefficient=0.01", "reference.policy=start"])
def test_a_pace_that_follows_the_signal_is_refused_where_groups_without_one_have_a_gradient(other: str) -> None:
    assert "pace" in complaint(["trainer.optimizer.pace=signal", f"trainer.objective.{other}"])


def test_the_learning_rate_may_be_anything_that_trains() -> None:
    for rate in ("1e-12", "3e-4", "1"):
        assert math.isfinite(load(None, [f"trainer.optimizer.learning_rate={rate}"]).trainer.optimizer.learning_rate)
