"""The group that kills trainers is found by where they died; a trainer that is killed by chance accuses nobody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ais.trainer.groups.quarantine import NOTE_FILE, Quarantine

BATCHES = [[f"{batch}-{index}" for index in range(4)] for batch in range(5)]


class Died(BaseException):
    """A trainer's end, of whatever kind."""


def life(directory: Path, poison: Sequence[str], first: int = 0, killed_at: int | None = None) -> list[str]:
    """One trainer's life, from the batch of its checkpoint on. Returns what it set aside; raises Died."""
    quarantine = Quarantine(directory)
    set_aside: list[str] = []
    for number, batch in enumerate(BATCHES[first:], first):
        entries = list(batch)
        while guilty := quarantine.guilty(entries):
            set_aside.append(guilty)
            entries[entries.index(guilty)] = f"{guilty}-again"
        if quarantine.suspects(entries):
            for entry in entries:
                with quarantine.under_way(entries, alone=entry):
                    if entry in poison:
                        raise Died
        with quarantine.under_way(entries):
            if number == killed_at or set(entries) & set(poison):
                raise Died
    return set_aside


@pytest.mark.parametrize("poison", ["0-0", "2-3", "4-1"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_group_that_kills_two_trainers_is_tried_alone_and_set_aside_by_the_one_after(
    tmp_path: Path, poison: str, first: int
) -> None:
    first = min(first, int(poison[0]))
    for _ in range(3):  # at its batch, again, and at the group alone
        with pytest.raises(Died):
            life(tmp_path, [poison], first)
    assert life(tmp_path, [poison], first) == [poison]


def test_two_poisonous_groups_are_found_one_after_the_other(tmp_path: Path) -> None:
    poison = ["1-1", "3-0"]
    set_aside: list[str] = []
    for _ in range(10):
        try:
            set_aside = life(tmp_path, poison, first=1)
            break
        except Died:
            continue
        finally:
            if Quarantine(tmp_path).guilty(["1-1"]):
                poison = ["3-0"]  # the queue has lost it for good
    assert set_aside == ["3-0"]


def test_trainers_that_are_killed_by_chance_accuse_nobody(tmp_path: Path) -> None:
    for batch in (2, 2, 2, 3, 1, 4, 4):
        with pytest.raises(Died):
            life(tmp_path, [], first=1, killed_at=batch)
    assert life(tmp_path, [], first=1) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"deaths": "many"}', b"[]"])
def test_a_note_that_a_death_has_cut_short_is_no_note(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NOTE_FILE).write_bytes(content)
    assert life(tmp_path, []) == []
