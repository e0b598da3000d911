"""The demo's own task: sorting digits."""

from __future__ import annotations

import random

from ais.collector.prompts.prompts import Prompt, Split


class SortTask:
    """Sort digits: `3914=` is answered by `1349`. Real, verifiable, and learnable in a minute on two cores."""

    distinct: int | None = None
    too_long = 0

    def __init__(self, digits: int, seed: int, split: Split, label: str | None = None) -> None:
        self.name = label or f"sort{digits}"
        self._digits = digits
        self._stream = f"{seed}:{split}"

    @property
    def sources(self) -> tuple[SortTask, ...]:
        return (self,)

    def prompt(self, ordinal: int) -> Prompt:
        # A string seed is hashed with SHA-512 by `random`: stable across processes and Python versions.
        generator = random.Random(f"{self._stream}:{ordinal}")
        digits = "".join(generator.choices("0123456789", k=self._digits))
        answer = "".join(sorted(digits))
        return Prompt(f"sort{self._digits}-{digits}", f"{digits}=", answer, source=self.name)
