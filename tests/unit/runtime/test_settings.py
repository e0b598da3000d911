"""One source of settings; what is wrong is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ais.runtime.settings import RunSettings, Section, SettingsError, known_keys, read_tree, validate


@dataclass(frozen=True)
class Nested:
    strength: float = 1.0


class Root(Section):
    run: RunSettings = RunSettings()
    mixing: Nested = Nested()


def effective(tmp_path: Path, toml: str = "", overrides: tuple[str, ...] = (), **environment: str) -> Root:
    file = tmp_path / "settings.toml"
    file.write_text(toml)
    return validate(Root, read_tree(file, overrides, environment))


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    toml = "[run]\nsteps = 1\nseed = 1\nmax_staleness = 1"
    settings = effective(tmp_path, toml, ("run.steps=3",), AIS_RUN__STEPS="2", AIS_RUN__SEED="2")
    assert (settings.run.steps, settings.run.seed, settings.run.max_staleness) == (3, 2, 1)


def test_text_that_is_not_toml_is_plain_text(tmp_path: Path) -> None:
    assert effective(tmp_path, overrides=("run.name=my-run", "run.model=/models/a b")).run.model == Path("/models/a b")


@pytest.mark.parametrize(
    ("override", "nearest"),
    [("run.setps=3", "run.steps"), ("rnu.steps=3", "run"), ("mixing.strenght=1", "mixing.strength")],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path, override: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match=f"did you mean {nearest}"):
        effective(tmp_path, overrides=(override,))


def test_every_wrong_value_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        effective(tmp_path, overrides=("run.steps=zero", "run.groups_per_batch=0"))
    assert "run.steps" in str(error.value)
    assert "run.groups_per_batch" in str(error.value)


@pytest.mark.parametrize(
    ("toml", "overrides", "complaint"),
    [("run = ", (), "not valid TOML"), ("", ("run.steps",), "KEY=VALUE"), ("run = 1", ("run.steps=1",), "a value")],
)
def test_what_cannot_be_read_is_explained(
    tmp_path: Path, toml: str, overrides: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        effective(tmp_path, toml, overrides)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingsError, match="absent.toml does not exist"):
        read_tree(Path("absent.toml"))


def test_known_keys_reach_into_models_and_dataclasses() -> None:
    assert {"run.steps", "mixing.strength"} <= set(known_keys(Root))
