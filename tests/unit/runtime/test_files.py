"""A file is replaced whole or not at all."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ais.runtime.files import FOR_OWNER, replace_file, replace_link


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "record.json"


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize(
    ("content", "written"),
    [("é\n", b"\xc3\xa9\n"), (b"\xff\x00", b"\xff\x00"), (["a\n", "ü\n"], b"a\n\xc3\xbc\n"), ("", b""), ([], b"")],
)
def test_the_new_content_takes_the_place_of_the_old(
    file: Path, content: str | bytes | list[str], written: bytes
) -> None:
    file.write_text("old, and longer than what comes")
    replace_file(file, content)
    assert file.read_bytes() == written
    assert names_in(file.parent) == [file.name]


def test_lines_may_be_read_from_the_file_they_replace(file: Path) -> None:
    file.write_text("1\n2\n3\n")
    with file.open() as lines:
        replace_file(file, (line for line in lines if line != "2\n"))
    assert file.read_text() == "1\n3\n"


def test_what_fails_midway_leaves_the_old_file_and_nothing_else(file: Path) -> None:
    def lines() -> Iterator[str]:
        yield "new\n"
        raise ValueError("no second line")

    file.write_text("old\n")
    with pytest.raises(ValueError, match="no second line"):
        replace_file(file, lines())
    with pytest.raises(UnicodeEncodeError):
        replace_file(file, "lone \ud800")
    assert file.read_text() == "old\n"
    assert names_in(file.parent) == [file.name]


def test_links_are_replaced_and_never_followed(file: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep")
    file.symlink_to(precious)
    replace_file(file, "new")
    assert precious.read_text() == "keep"
    assert not file.is_symlink()
    assert file.read_text() == "new"


def test_a_file_with_secrets_is_its_owners_alone(file: Path) -> None:
    file.write_text("old")
    file.chmod(0o644)
    replace_file(file, "secret", FOR_OWNER)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_directory_in_the_way_is_an_error_that_leaves_nothing(file: Path) -> None:
    file.mkdir()
    with pytest.raises(OSError, match="record.json"):
        replace_file(file, "new")
    assert names_in(file.parent) == [file.name]


def test_writers_that_race_leave_one_whole_file(file: Path) -> None:
    contents = [str(number) * 100_000 for number in range(8)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda content: replace_file(file, content), contents))
    assert file.read_text() in contents
    assert names_in(file.parent) == [file.name]


def test_a_link_points_elsewhere_at_once(tmp_path: Path) -> None:
    link = tmp_path / "latest"
    replace_link(link, "step-1")
    replace_link(link, "step-2")
    assert link.readlink() == Path("step-2")
    assert names_in(tmp_path) == ["latest"]
