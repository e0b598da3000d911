"""How far a target is, in a file of a few numbers that outlives the process that counts."""

from __future__ import annotations

import mmap
from pathlib import Path

PROGRESS, CORPUS = "progress", "corpus"
"""In the directory of a target: the numbers, and the folder of inputs that were found."""

_INPUTS, _TAKEN, _SLOWEST, _PROCESSOR, _MEMORY, _FIELDS = range(6)
_WIDTH = 8


class Progress:
    """Numbers in a file. One process counts at a time; they are in the file at once, whatever ends it."""

    def __init__(self, file: Path) -> None:
        """Makes the file when it is missing."""
        if not file.exists():
            file.write_bytes(bytes(_FIELDS * _WIDTH))
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), _FIELDS * _WIDTH)
        self._numbers = memoryview(self._map).cast("Q")

    def count(self, taken: bool, nanoseconds: int) -> None:
        """Counts an input that was taken, or refused, within so long."""
        self._numbers[_INPUTS] += 1
        self._numbers[_TAKEN] += taken
        self._numbers[_SLOWEST] = max(self._numbers[_SLOWEST], nanoseconds)

    def use(self, processor_seconds: float, megabytes: float) -> None:
        """Adds what a process used that has ended, its start included."""
        self._numbers[_PROCESSOR] += round(processor_seconds * 1e9)
        self._numbers[_MEMORY] = max(self._numbers[_MEMORY], round(megabytes * 1e6))

    @property
    def inputs(self) -> int:
        """All that came to an end as they should."""
        return self._numbers[_INPUTS]

    @property
    def taken(self) -> int:
        """Those that the border took."""
        return self._numbers[_TAKEN]

    @property
    def slowest_seconds(self) -> float:
        return self._numbers[_SLOWEST] / 1e9

    @property
    def processor_seconds(self) -> float:
        """What all processes together have used."""
        return self._numbers[_PROCESSOR] / 1e9

    @property
    def megabytes(self) -> float:
        """Peak memory of a process."""
        return self._numbers[_MEMORY] / 1e6
