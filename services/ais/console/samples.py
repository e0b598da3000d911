"""Finding samples: prompts and responses that the trainer has kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Sample = Mapping[str, Any]

MOST_SHOWN = 100
"""Samples of one answer."""
_TEXTS = ("prompt", "response", "answer", "finish_reason")
"""What is searched."""


@dataclass(frozen=True)
class Query:
    """Which samples are wanted."""

    text: str = ""
    """Those that have it in one of their texts, in capitals or not."""
    first: int = 0
    """The least step ..."""
    last: int | None = None
    """... and the largest."""
    skip: int = 0
    """So many of those found are left out, the newest ones."""
    limit: int = 20


def found(samples: Sequence[Sample], query: Query) -> dict[str, Any]:
    """The samples that match, the newest first: how many there are, and those asked for."""
    matching = [sample for sample in reversed(samples) if _matches(sample, query)]
    end = query.skip + min(query.limit, MOST_SHOWN)
    return {"total": len(samples), "found": len(matching), "samples": matching[query.skip : end]}


def _matches(sample: Sample, query: Query) -> bool:
    step = sample["step"]
    if step < query.first or (query.last is not None and step > query.last):
        return False
    wanted = query.text.casefold()
    return not wanted or any(wanted in text.casefold() for text in _searched(sample))


def _searched(sample: Sample) -> Iterable[str]:
    return (str(sample.get(name, "")) for name in _TEXTS)
