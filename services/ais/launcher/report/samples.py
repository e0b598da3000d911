"""Prompts and responses that the trainer has kept, as the report shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

NEWEST, OLDEST = 12, 4
"""Samples shown from the end and from the beginning of what is kept."""


class Sample(BaseModel):
    """One line of `samples.jsonl`; what else a line holds is not shown."""

    step: int
    prompt: str
    response: str
    reward: float
    components: dict[str, float] = {}
    """Scores by named component of the reward."""
    finish_reason: str


def read_samples(directory: Path) -> list[Sample]:
    """The newest samples first, then the oldest, from `directory/samples.jsonl`; none where it was not written."""
    file = directory / "samples.jsonl"
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")  # not splitlines: a text may hold U+2028
    samples = list(_valid(lines))
    return [*samples[: -NEWEST - 1 : -1], *samples[:OLDEST]] if len(samples) > NEWEST + OLDEST else samples[::-1]


def _valid(lines: list[str]) -> Iterator[Sample]:
    for line in lines:
        try:
            yield Sample.model_validate(json.loads(line))
        except (ValueError, ValidationError):  # the last line of a run that is being written
            continue
