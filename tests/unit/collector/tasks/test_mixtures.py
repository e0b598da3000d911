"""A mixture draws from its sources by weight, as a pure function of seed and ordinal."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ais.collector.judging.opening import open_judge
from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.settings import CollectorSettings, TaskSettings
from ais.collector.tasks.mixture import LONGEST_PERIOD, TOLERANCE, Mixture, quotas
from ais.collector.tasks.task import open_task
from tests.support.judges import ended


@dataclass(frozen=True)
class Counting:
    """A source whose prompts are its ordinals."""

    name: str
    distinct: int | None = None
    too_long: int = 0

    @property
    def sources(self) -> tuple[Counting, ...]:
        return (self,)

    def prompt(self, ordinal: int) -> Prompt:
        return Prompt(f"{self.name}-{ordinal}", str(ordinal), "", source=self.name)


def mixture(weights: list[float], seed: int = 0) -> Mixture:
    return Mixture([Counting(f"s{number}") for number in range(len(weights))], weights, seed)


WEIGHTS = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    weights=WEIGHTS, seed=st.integers(0, 2**32 - 1), start=st.integers(0, 2**40), others=st.lists(st.integers(0, 99))
)
def test_a_prompt_depends_on_seed_and_ordinal_alone(
    weights: list[float], seed: int, start: int, others: list[int]
) -> None:
    first, resumed = mixture(weights, seed), mixture(weights, seed)
    for other in others:
        resumed.prompt(other)
    assert [first.prompt(start + i) for i in range(5)] == [resumed.prompt(start + i) for i in reversed(range(5))][::-1]


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 2**32 - 1))
def test_each_source_is_gone_through_in_order_without_a_gap(weights: list[float], seed: int) -> None:
    drawn: dict[str, list[int]] = {}
    mixed = mixture(weights, seed)
    for ordinal in range(500):
        prompt = mixed.prompt(ordinal)
        drawn.setdefault(prompt.source, []).append(int(prompt.text))
    assert all(ordinals == list(range(len(ordinals))) for ordinals in drawn.values())


@settings(max_examples=100, deadline=None)
@given(weights=WEIGHTS)
def test_the_shares_of_a_period_are_those_of_the_weights(weights: list[float]) -> None:
    counts = quotas(weights)
    period = sum(counts)
    errors = [count / period / (weight / sum(weights)) - 1 for count, weight in zip(counts, weights, strict=True)]
    assert all(abs(error) <= TOLERANCE or period > LONGEST_PERIOD / 100 for error in errors)
    assert all(abs(error) <= 0.02 for error in errors)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 1], (1, 1)),
        ([3, 1], (3, 1)),
        ([0.7, 0.3], (7, 3)),
        ([0.333, 0.667], (1, 2)),
        ([2, 0, 1], (2, 0, 1)),
        ([5], (1,)),
    ],
)
def test_a_period_is_the_fewest_draws_with_the_weights_shares(weights: list[float], expected: tuple[int, ...]) -> None:
    assert quotas(weights) == expected


def test_every_stretch_of_a_period_has_the_weights_shares_and_another_seed_another_order() -> None:
    def sources(seed: int) -> list[str]:
        mixed = mixture([0.7, 0.3], seed)
        return [mixed.prompt(ordinal).source for ordinal in range(400)]

    drawn = sources(0)
    assert all(Counter(drawn[start : start + 10]) == {"s0": 7, "s1": 3} for start in range(0, 400, 10))
    assert drawn != sources(1)


def rows(file: Path, prefix: str, count: int) -> Path:
    file.write_text("".join(json.dumps({"prompt": f"{prefix}{i}", "answer": i}) + "\n" for i in range(count)))
    return file


def test_a_mixture_from_settings_keeps_training_and_each_sources_evaluation_apart(tmp_path: Path) -> None:
    task = TaskSettings.model_validate(
        {
            "name": "mixture",
            "sources": [
                {"name": "jsonl", "file": rows(tmp_path / "sums.jsonl", "a", 60), "weight": 2},
                {"name": "jsonl", "file": rows(tmp_path / "more.jsonl", "b", 30), "label": "other"},
                {"name": "sort", "digits": 9, "weight": 0},
            ],
        }
    )
    train, held_out = (open_task(task, 0, split) for split in (Split.TRAIN, Split.HELD_OUT))
    assert [source.name for source in train.sources] == ["sums", "other"]
    assert [source.name for source in held_out.sources] == ["sums", "other", "sort9"]
    trained_on = {train.prompt(ordinal).text for ordinal in range(400)}
    for source in held_out.sources[:2]:
        assert source.distinct is not None
        asked = {source.prompt(ordinal).text for ordinal in range(source.distinct)}
        assert len(asked) == source.distinct
        assert not asked & trained_on
        assert {source.prompt(ordinal).source for ordinal in range(9)} == {source.name}


async def test_each_sources_verifier_judges_its_prompts(tmp_path: Path) -> None:
    numbers = {"name": "jsonl", "file": rows(tmp_path / "n.jsonl", "a", 10), "verifier": "regular_expression"}
    task = TaskSettings.model_validate({"name": "mixture", "sources": [numbers, {"name": "sort"}]})
    async with open_judge(CollectorSettings(task=task)) as judge:
        responses = [ended("#### 7"), ended("7")]
        assert (await judge.judge(Prompt("1", "q", "7", source="n"), responses)).rewards == (1.0, 0.0)
        assert (await judge.judge(Prompt("1", "q", "7", source="sort16"), responses)).rewards == (0.0, 1.0)


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ({"name": "mixture"}, r"\[\[collector.task.sources\]\] go together"),
        ({"name": "sort", "sources": [{"name": "sort"}]}, "go together"),
        ({"name": "mixture", "sources": [{"name": "mixture"}]}, "cannot be a mixture"),
        ({"name": "mixture", "sources": [{"name": "sort"}, {"name": "sort"}]}, "two sources .* called sort16"),
        ({"name": "mixture", "sources": [{"name": "sort", "weight": 0}]}, "a weight above 0"),
        (
            {"name": "mixture", "sources": [{"name": "sort"}, {"digits": 2, "weight": 1e-4}]},
            "sort2 has a share of 0.0001",
        ),
        ({"name": "mixture", "verifier": "exact_match", "sources": [{"name": "sort"}]}, "belong to each source"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_from_is_refused(task: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TaskSettings.model_validate(task)
