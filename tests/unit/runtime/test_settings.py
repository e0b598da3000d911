"""One source of settings; what is wrong is named."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from ais.runtime.explaining import ALSO_KNOWN_AS, NOT_SUPPORTED, known_keys
from ais.runtime.reading import read_settings
from ais.runtime.settings import RunSettings, Section, SettingsError


@dataclass(frozen=True)
class Nested:
    strength: float = 1.0


class Prompt(Section):
    system: str = ""
    pattern: str | None = None
    file: Path | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)


class Root(Section):
    run: RunSettings = RunSettings()
    prompt: Prompt = Prompt()
    mixing: Nested = Nested()


def effective(tmp_path: Path, toml: str | bytes = "", overrides: tuple[str, ...] = (), **environment: str) -> Root:
    file = tmp_path / "settings.toml"
    file.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    return read_settings(Root, file, overrides, environment)


def complaint(tmp_path: Path, toml: str | bytes = "", overrides: tuple[str, ...] = (), **environment: str) -> str:
    with pytest.raises(SettingsError) as error:
        effective(tmp_path, toml, overrides, **environment)
    return str(error.value)


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    toml = "[run]\nsteps = 1\nseed = 1\nmax_staleness = 1"
    settings = effective(tmp_path, toml, ("run.steps=3",), AIS_RUN__STEPS="2", AIS_RUN__SEED="2")
    assert (settings.run.steps, settings.run.seed, settings.run.max_staleness) == (3, 2, 1)


@pytest.mark.parametrize(
    "text", ["42", "2025-11-01", "07:32:00", "true", "nan", "1e3", "[1, 2]", "{a = 1}", "0x1F", "a = 1", "5\nb = 1", ""]
)
def test_a_setting_that_holds_text_gets_the_text_as_it_is(tmp_path: Path, text: str) -> None:
    overrides = (f"prompt.system={text}", f"prompt.pattern={text}")
    prompt = effective(tmp_path, overrides=overrides).prompt
    assert (prompt.system, prompt.pattern) == (text, text)
    assert effective(tmp_path, AIS_PROMPT__SYSTEM=text).prompt.system == text


@pytest.mark.parametrize("name", ["2025", "2025-11-01", "true", "1.5"])
def test_a_name_and_a_path_may_look_like_a_number(tmp_path: Path, name: str) -> None:
    run = effective(tmp_path, overrides=(f"run.name={name}", f"run.model={name}")).run
    assert (run.name, run.model) == (name, Path(name))


def test_quoted_text_is_what_the_quotes_hold(tmp_path: Path) -> None:
    assert effective(tmp_path, overrides=('prompt.system="a\\nb"',)).prompt.system == "a\nb"


def test_other_settings_are_read_as_toml(tmp_path: Path) -> None:
    overrides = ("run.steps=0x10", "mixing.strength=1e2", "prompt.arguments.x=42", "prompt.arguments.y=plain")
    settings = effective(tmp_path, overrides=overrides)
    assert (settings.run.steps, settings.mixing.strength) == (16, 100.0)
    assert settings.prompt.arguments == {"x": 42, "y": "plain"}


def test_text_of_several_lines_cannot_smuggle_in_other_settings(tmp_path: Path) -> None:
    assert "run.steps" in complaint(tmp_path, overrides=("run.steps=5\nother = 1",))


def test_paths_of_a_file_count_from_the_file_and_others_from_here(tmp_path: Path) -> None:
    toml = '[run]\nmodel = "a/model"\ndirectory = "/absolute"\n[prompt]\nfile = "../rows.jsonl"'
    settings = effective(tmp_path, toml)
    assert settings.run.model == tmp_path / "a/model"
    assert settings.run.directory == Path("/absolute")
    assert settings.prompt.file == tmp_path / "../rows.jsonl"
    assert effective(tmp_path, toml, ("run.model=b",), AIS_PROMPT__FILE="c").run.model == Path("b")
    assert effective(tmp_path, toml, AIS_PROMPT__FILE="c").prompt.file == Path("c")


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("run.setps=3", "run.steps"),
        ("rnu.steps=3", "run"),
        ("mixing.strenght=1", "mixing.strength"),
        ("run.group_per_batch=1", "run.groups_per_batch"),
        ("mixing.steps=1", "run.steps"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path, override: str, nearest: str) -> None:
    assert f"did you mean {nearest}?" in complaint(tmp_path, overrides=(override,))


@pytest.mark.parametrize("key", ["run.flux_capacitor", "mixing.banana", "entirely.different", "run.x", "a" * 10_000])
def test_a_key_that_is_like_no_other_gets_no_suggestion(tmp_path: Path, key: str) -> None:
    said = complaint(tmp_path, overrides=(f"{key}=1",))
    assert "unknown setting" in said
    assert "did you mean" not in said
    assert len(said) < 300


@pytest.mark.parametrize("name", NOT_SUPPORTED)
@pytest.mark.parametrize("where", ["run.{}", "{}", "{}.enabled", "mixing.{}"])
def test_what_only_others_have_is_said_not_to_be_supported(tmp_path: Path, name: str, where: str) -> None:
    said = complaint(tmp_path, overrides=(f"{where.format(name)}=1",))
    assert f"{name} is not supported, {NOT_SUPPORTED[name]}" in said
    assert "did you mean" not in said


def test_what_others_call_differently_is_named(tmp_path: Path) -> None:
    assert "here it is called run.groups_per_batch" in complaint(tmp_path, overrides=("run.batch_size=1",))
    assert all("." in place for place in ALSO_KNOWN_AS.values())


def test_every_wrong_value_is_named_at_once(tmp_path: Path) -> None:
    said = complaint(tmp_path, overrides=("run.steps=zero", "run.groups_per_batch=0"))
    assert "setting run.steps: input should be a valid integer" in said
    assert "got zero" in said
    assert "setting run.groups_per_batch: input should be greater than or equal to 1, got 0" in said


@pytest.mark.parametrize("value", ["{ a = 1 }", "[1, 2]", "{ model = { a = 1 } }"])
def test_no_python_object_stands_in_an_error(tmp_path: Path, value: str) -> None:
    said = complaint(tmp_path, f"[run]\nsteps = {value}")
    assert "run.steps" in said
    assert not set("{}[]") & set(said)


def test_a_value_in_an_error_is_short_and_on_one_line(tmp_path: Path) -> None:
    said = complaint(tmp_path, overrides=(f"run.name={'x y' * 9_000}\n\x1b[2J",))
    assert len(said) < 400
    assert said.isprintable()


@pytest.mark.parametrize("toml", ["[run]\nname = 2025", "[run]\nname = 2025-11-01", "[run]\nmodel = 5"])
def test_text_without_quotes_in_a_file_is_told_to_have_some(tmp_path: Path, toml: str) -> None:
    assert "text stands in quotes in a file" in complaint(tmp_path, toml)


@pytest.mark.parametrize(
    ("toml", "overrides", "said"),
    [
        ("run = ", (), "not valid TOML"),
        ("", ("run.steps",), "KEY=VALUE"),
        ("run = 1", ("run.steps=1",), "a value"),
        ("[run]\nsteps = " + "9" * 5_000, (), "not valid TOML"),
        ("x = " + "[" * 100_000, (), "not valid TOML"),
        ("[run]\nname = 'é'".encode("latin-1"), (), r"is not UTF-8 (byte 14 is 0xe9); save it as UTF-8"),
        ("[run]\nname = 'e'".encode("utf-16"), (), "is not UTF-8"),
        (b"\x00", (), "not valid TOML"),
    ],
)
def test_what_cannot_be_read_is_explained_on_one_line(
    tmp_path: Path, toml: str | bytes, overrides: tuple[str, ...], said: str
) -> None:
    text = complaint(tmp_path, toml, overrides)
    assert said in text
    assert "\n" not in text


def test_bytes_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    assert "--set run.name: expected text in UTF-8" in complaint(tmp_path, overrides=("run.name=caf\udce9",))
    assert "AIS_RUN__NAME: expected text in UTF-8" in complaint(tmp_path, AIS_RUN__NAME="caf\udce9")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert effective(tmp_path, b"\xef\xbb\xbf[run]\nsteps = 7").run.steps == 7


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent.toml does not exist"):
        read_settings(Root, Path("absent.toml"))
    with pytest.raises(SettingsError, match="is a directory"):
        read_settings(Root, tmp_path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings(Root, Path("a\0b"))


@pytest.mark.parametrize("parts", [20, 50_000])
@pytest.mark.parametrize("separator", [".", " . ", '"."'])
def test_a_key_without_end_is_refused_at_once(tmp_path: Path, parts: int, separator: str) -> None:
    begun = time.process_time()
    quote = '"' if '"' in separator else ""
    key = quote + separator.join(["a"] * parts) + quote
    complaint(tmp_path, f"{key} = 1")
    complaint(tmp_path, f"[{key}]")
    complaint(tmp_path, f"x = {{ {key} = 1 }}")
    complaint(tmp_path, overrides=(f"run.{key}=1",))
    complaint(tmp_path, overrides=(f"run={{{key} = 1}}",))
    complaint(tmp_path, **{f"AIS_RUN__{'__'.join(['A'] * parts)}": "1"})
    assert time.process_time() - begun < 2.0


def test_long_text_is_read_in_no_time(tmp_path: Path) -> None:
    begun = time.process_time()
    text = "a" * 1_000_000
    assert effective(tmp_path, f'[prompt]\nsystem = "{text}"').prompt.system == text
    assert effective(tmp_path, overrides=(f"prompt.system={text}",)).prompt.system == text
    assert time.process_time() - begun < 2.0


def test_a_service_leaves_the_sections_of_others_alone(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[run]\nsteps = 3\n[others]\nkey = 1")
    assert read_settings(Root, file, ("more.keys=1",), {}, whole=False).run.steps == 3
    with pytest.raises(SettingsError, match="unknown setting others"):
        read_settings(Root, file, (), {})


def test_known_keys_reach_into_models_and_dataclasses() -> None:
    assert {"run.steps", "mixing.strength", "prompt.file"} <= set(known_keys(Root))


class Source(Section):
    file: Path | tuple[Path, ...] | None = None
    rows: int = 1


class Mixed(Section):
    sources: tuple[Source, ...] = ()
    file: Path | tuple[Path, ...] | None = None


class MixedRoot(Section):
    task: Mixed = Mixed()


def mixed(tmp_path: Path, toml: str, *overrides: str) -> Mixed:
    (tmp_path / "settings.toml").write_text(toml)
    return read_settings(MixedRoot, tmp_path / "settings.toml", overrides, {}).task


def test_paths_in_lists_and_in_arrays_of_tables_count_from_the_files_directory(tmp_path: Path) -> None:
    task = mixed(
        tmp_path, '[task]\nfile = ["a", "b/*"]\n[[task.sources]]\nfile = "c"\n[[task.sources]]\nfile = ["d"]\n'
    )
    assert task.file == (tmp_path / "a", tmp_path / "b/*")
    assert [source.file for source in task.sources] == [tmp_path / "c", (tmp_path / "d",)]


@pytest.mark.parametrize(
    ("text", "file"), [("2025", Path("2025")), ("a.jsonl", Path("a.jsonl")), ('["a", "b"]', (Path("a"), Path("b")))]
)
def test_a_setting_of_one_path_or_several_may_be_overridden_by_either(tmp_path: Path, text: str, file: object) -> None:
    assert mixed(tmp_path, "", f"task.file={text}").file == file


def test_a_truth_value_for_a_number_is_refused_in_arrays_of_tables_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"setting task\.sources\.1\.rows: expected a number, got true or false"):
        mixed(tmp_path, "[[task.sources]]\nrows = 2\n[[task.sources]]\nrows = true\n")
