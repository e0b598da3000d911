"""Text is UTF-8 wherever it is read or written, whatever the locale says."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ais.launcher.directory.run_directory import RunDirectory
from ais.settings import load, to_toml

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("services/ais", "ais_core", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale in which Python takes ASCII for text unless it is told otherwise."""


def of_the_locale(source: Path) -> Iterator[int]:
    """Lines that open a file as text and leave its encoding to the locale."""
    for node in ast.walk(ast.parse(source.read_bytes())):
        if not isinstance(node, ast.Call) or any(keyword.arg in ("encoding", None) for keyword in node.keywords):
            continue
        match node.func:
            case ast.Attribute(attr="read_text" | "write_text"):
                yield node.lineno
            case ast.Attribute(attr="open") if is_text_mode(node.args[0] if node.args else None):
                yield node.lineno
            case ast.Name(id="open") if is_text_mode(node.args[1] if len(node.args) > 1 else None):
                yield node.lineno


def is_text_mode(mode: ast.expr | None) -> bool:
    return mode is None or (
        isinstance(mode, ast.Constant) and str(mode.value) in ("r", "w", "a", "x", "r+", "w+", "a+")
    )


def test_every_text_file_is_opened_with_its_encoding() -> None:
    assert len(SOURCES) > 150
    found = [f"{source.relative_to(ROOT)}:{line}" for source in SOURCES for line in of_the_locale(source)]
    assert found == []


def ais(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ais.cli", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=100, check=False)


@pytest.mark.parametrize("locale", [ASCII, {"LC_ALL": "C.UTF-8"}, {**ASCII, "PYTHONIOENCODING": "latin-1"}])
def test_settings_are_printed_in_utf_8_in_any_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[collector.prompt]\nsystem = "Größe: 数"\n', encoding="utf-8")
    done = ais("config", "-c", str(file), **locale)
    assert done.returncode == 0, done.stderr
    assert 'system = "Größe: 数"' in done.stdout.decode("utf-8")


@pytest.mark.parametrize("locale", [ASCII, {}])
def test_a_report_is_written_and_its_path_printed_in_any_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    directory = RunDirectory(tmp_path / "lauf")
    directory.path.mkdir()
    directory.config.write_text(to_toml(load(None, ["collector.prompt.system=Größe: 数"])), encoding="utf-8")
    done = ais("report", str(directory.path), **locale)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("utf-8") == f"{directory.report}\n"
    assert "Größe: 数" in directory.report.read_text(encoding="utf-8")


def test_a_settings_file_in_latin_1_is_refused_on_one_line_in_any_locale(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes('[run]\nname = "é"\n'.encode("latin-1"))
    for locale in (ASCII, {}):
        done = ais("config", "-c", str(file), **locale)
        assert done.returncode == 2
        assert b"is not UTF-8" in done.stderr
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", [("config",), ("--help",), ("run", "--help")])
def test_a_reader_that_leaves_ends_a_command_quietly(command: tuple[str, ...]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ais.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _out, said = process.communicate(timeout=100)
    assert said == b""
    assert process.returncode in (1, 141)
