"""Which split a made problem belongs to: its text alone decides, so no problem is in two, whatever the seeds."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

from ais.collector.prompts.prompts import Split

_EIGHTHS = (Split.HELD_OUT, *[Split.DEMONSTRATION] * 3, *[Split.TRAIN] * 4)


def split_of(text: str) -> Split:
    """An eighth of all problems is held out, three are for demonstrations and four for training."""
    return _EIGHTHS[hashlib.sha256(text.encode()).digest()[0] % 8]


def draw(make: Callable[[random.Random], str], seed: int, split: Split, ordinal: int) -> str:
    """The problem of an ordinal: `make` is asked until what it makes belongs to `split`, one time in two to eight.

    A string seed is hashed with SHA-512 by `random`: stable across processes and Python versions.
    """
    generator = random.Random(f"{seed}:{split}:{ordinal}")
    while split_of(text := make(generator)) is not split:
        pass
    return text
