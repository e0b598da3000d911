"""Where prompts come from: an endless order of prompts that is a pure function of seed and ordinal.

Because the order has no state, it is resumable for free: whoever knows an ordinal knows its prompt.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from services.collector.settings import TaskSettings


class TaskError(ValueError):
    """The task cannot be used. The message says which file and line, and what was expected."""


class Split(StrEnum):
    """Prompts of one split do not serve in another (for `jsonl`: when a held-out file is given)."""

    DEMONSTRATION = "demonstration"
    TRAIN = "train"
    HELD_OUT = "held-out"


@dataclass(frozen=True)
class Prompt:
    """A question with the answer a verifier compares with."""

    prompt_id: str
    text: str
    answer: str


class TaskSource(Protocol):
    """An endless seeded order of prompts."""

    name: str

    def prompt(self, ordinal: int) -> Prompt: ...


class SortTask:
    """Sort digits: `3914=` is answered by `1349`. Real, verifiable, and learnable in a minute on two cores."""

    def __init__(self, digits: int, seed: int, split: Split) -> None:
        self.name = f"sort{digits}"
        self._digits = digits
        self._stream = f"{seed}:{split}"

    def prompt(self, ordinal: int) -> Prompt:
        # A string seed is hashed with SHA-512 by `random`: stable across processes and Python versions.
        generator = random.Random(f"{self._stream}:{ordinal}")
        digits = "".join(generator.choices("0123456789", k=self._digits))
        return Prompt(prompt_id=f"{self.name}-{digits}", text=f"{digits}=", answer="".join(sorted(digits)))


class JsonlTask:
    """Prompts of a JSONL file, in a new seeded order each epoch."""

    def __init__(self, file: Path, seed: int) -> None:
        self.name = file.stem
        self._prompts = _read_jsonl(file)
        self._seed = seed
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def prompt(self, ordinal: int) -> Prompt:
        epoch, position = divmod(ordinal, len(self._prompts))
        return self._prompts[self._order(epoch)[position]]

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self._prompts)))
        random.Random(f"{self._seed}:{epoch}").shuffle(order)
        return order


def open_task(settings: TaskSettings, seed: int, split: Split) -> TaskSource:
    """Raises TaskError for a file that is missing, empty or malformed."""
    if settings.name == "sort":
        return SortTask(settings.digits, seed, split)
    assert settings.file is not None  # the settings model has checked it
    held_out = settings.held_out_file if split is Split.HELD_OUT else None
    return JsonlTask(held_out or settings.file, seed)


def _read_jsonl(file: Path) -> list[Prompt]:
    try:
        # Not splitlines: it also splits at characters that may stand inside a JSON string.
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise TaskError(f"cannot read task file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"task file {file} is not UTF-8: {error}") from error
    prompts = [_parse(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise TaskError(f"task file {file} has no prompts")
    return prompts


def _parse(file: Path, number: int, line: str) -> Prompt:
    try:
        row = json.loads(line)
        if not isinstance(row["prompt"], str):
            raise TaskError(f"{file}, line {number}: the prompt must be text, got {row['prompt']!r}")
        return Prompt(
            prompt_id=str(row.get("id", f"{file.stem}-{number}")), text=row["prompt"], answer=str(row["answer"])
        )
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise TaskError(f"{file}, line {number}: expected a JSON object, got {line[:80]!r}") from error
    except KeyError as error:
        raise TaskError(f"{file}, line {number}: the key {error} is missing") from error
