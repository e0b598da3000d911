"""Finds the group that kills trainers, so that it is set aside and the run goes on without it.

Before it trains a batch, a trainer notes which queue entries the batch is made of, and takes the note back afterwards.
A trainer that finds a note when it starts knows where the one before it died. When two have died at the same batch, it
tries each of its groups alone first, with a note of which. The one that it dies at is then known to the next trainer.

The note outlives a process, however it ends. It need not outlive a machine: it is not flushed to the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

NOTE_FILE = "under_way.json"
DEATHS_TOLERATED = 1
"""A trainer may die at a batch by chance; one more, and its groups are tried alone."""


class Note(BaseModel):
    """What a trainer leaves behind that dies."""

    model_config = ConfigDict(frozen=True)

    under_way: tuple[str, ...] = ()
    """Queue entries of the batch that is trained; empty between two batches."""
    alone: str = ""
    """The one of them that is tried alone."""
    deadly: tuple[str, ...] = ()
    """Queue entries of the batch at which trainers have died."""
    deaths: int = 0
    """How many have."""
    guilty: str = ""
    """The queue entry that a trainer has died at while it was tried alone."""

    def inherited(self) -> Note:
        """The note of the trainer that starts after one that left this."""
        if not self.under_way:
            return self
        again = self.under_way == self.deadly
        deaths = self.deaths + 1 if again else 1
        return Note(deadly=self.under_way, deaths=deaths, guilty=self.alone or self.guilty)


class Quarantine:
    """Keeps one trainer's note, and judges by that of the one before."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / NOTE_FILE
        self._note = self._read().inherited()

    def guilty(self, entries: Sequence[str]) -> str | None:
        """The entry among these that killed a trainer while it was tried alone."""
        return self._note.guilty if self._note.guilty in entries else None

    def suspects(self, entries: Sequence[str]) -> bool:
        """Whether so many trainers have died at this batch that each group is to be tried alone."""
        return tuple(entries) == self._note.deadly and self._note.deaths > DEATHS_TOLERATED

    @contextmanager
    def under_way(self, entries: Sequence[str], alone: str = "") -> Iterator[None]:
        """Holds the note while a batch is trained, or one of its groups tried `alone`. It stays if an error is raised:
        the trainer is about to die of it."""
        note = self._note
        self._write(note.model_copy(update={"under_way": tuple(entries), "alone": alone}))
        yield
        survived = not alone and tuple(entries) == note.deadly
        self._note = Note() if survived else note
        self._write(self._note)

    def _read(self) -> Note:
        try:
            return Note.model_validate_json(self._file.read_bytes())
        except (FileNotFoundError, ValidationError):  # none, or one that a death has cut short
            return Note()

    def _write(self, note: Note) -> None:
        self._file.write_text(note.model_dump_json(), encoding="utf-8")
