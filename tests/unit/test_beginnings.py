"""`ais init`: examples as directories to begin with."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ais.beginnings import descriptions, examples_directory, write_beginning
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.settings import load

ROOT = Path(__file__).parents[2]
NAMES = sorted(descriptions(examples_directory()))


def init(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ais.cli", "init", *arguments], cwd=cwd, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_beginning_stands_alone_and_its_settings_are_settings(name: str, tmp_path: Path) -> None:
    files = write_beginning(examples_directory(), name, tmp_path / "new")
    assert tmp_path / "new/config.toml" in files
    assert ".." not in {
        part for line in (tmp_path / "new/config.toml").read_text().splitlines() for part in line.split('"')
    }
    settings, example = load(tmp_path / "new/config.toml"), load(examples_directory() / name / "config.toml")
    assert settings.run.model.is_relative_to(tmp_path / "new")
    assert settings.run.model.exists() == (
        example.run.model.exists() and examples_directory() in example.run.model.resolve().parents
    )


def test_the_command_lists_them_writes_one_and_never_writes_over_it(tmp_path: Path) -> None:
    listed = init(cwd=tmp_path)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == NAMES
    done = init("sort16", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ais run -c mine/config.toml" in done.stdout
    (tmp_path / "mine/config.toml").write_text("mine")
    again = init("sort16", "mine", cwd=tmp_path)
    assert again.returncode == EXIT_UNAVAILABLE
    assert "exists already" in again.stderr
    assert (tmp_path / "mine/config.toml").read_text() == "mine"


def test_an_unknown_example_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    done = init("sort17", cwd=tmp_path)
    assert done.returncode == EXIT_SETTINGS
    assert "sort16" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_has_the_examples_and_the_page_of_the_console(tmp_path: Path) -> None:
    build = "import hatchling.build, sys; hatchling.build.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"ais/examples/{name}/config.toml" for name in NAMES} <= set(names)
    page = ROOT / "services" / "ais" / "console" / "page"
    assert {f"ais/console/page/{file.relative_to(page)}" for file in page.rglob("*") if file.is_file()} <= set(names)
