"""Which prompts are kept for evaluation: a pure function of each one's question, so no other row can change it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from ais.collector.prompts.prompts import Question

Digests = NDArray[np.uint64]
"""One digest for each row. That two of a million different questions share one has a probability of 3e-8."""


def digest_of(question: Question) -> int:
    """64 bits that stand for a question, evenly spread over all questions."""
    text = question if isinstance(question, str) else json.dumps(question, ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def is_held_out(question: Question, fraction: float) -> bool:
    """Whether a prompt is kept for evaluation where `fraction` of all are."""
    return _position(digest_of(question)) < fraction


def held_out(digests: Digests, fraction: float) -> NDArray[np.bool_]:
    """`is_held_out` of each row; where that is none of them, the question nearest to it, unless it is the only one."""
    kept = np.asarray(digests >> np.uint64(16), dtype=np.float64) / 2**48 < fraction
    if kept.any() or len(np.unique(digests)) < 2:
        return kept
    return np.asarray(digests == digests.min())


def _position(digest: int) -> float:
    return (digest >> 16) / 2**48
