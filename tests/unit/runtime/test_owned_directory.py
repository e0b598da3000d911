"""A directory goes with the last object that holds it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ais.runtime.owned_directory import OwnedDirectory


@dataclass(frozen=True)
class Held:
    directory: OwnedDirectory
    number: int = 0


def test_a_directory_stays_while_any_copy_of_its_owner_does(tmp_path: Path) -> None:
    held = Held(OwnedDirectory("one-", tmp_path))
    (held.directory.path / "file").write_bytes(b"x")
    copy = replace(held, number=1)
    del held
    assert (copy.directory.path / "file").is_file()
    del copy
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_nobody_got_to_hold_is_removed(tmp_path: Path) -> None:
    def fails() -> Held:
        directory = OwnedDirectory("one-", tmp_path)
        (directory.path / "file").write_bytes(b"x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_one_made_beside_another_lies_in_the_same_parent_and_lives_alone(tmp_path: Path) -> None:
    first = OwnedDirectory("first-", tmp_path)
    second = first.beside("second-")
    first.remove()
    first.remove()
    assert list(tmp_path.iterdir()) == [second.path]
