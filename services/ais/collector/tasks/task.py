"""Where prompts come from: the sources of our own, and which one the settings ask for."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from pathlib import Path

from ais.collector.prompts.prompts import Prompt, Split, TaskError, TaskSource
from ais.collector.settings import TaskSettings
from ais.collector.tasks.reasoning_gym import ReasoningGymTask, check_scorable


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

    def __init__(self, name: str, prompts: list[Prompt], seed: int) -> None:
        self.name = name
        self._prompts = prompts
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
    """Raises TaskError for a file that is missing, empty or malformed, and for an unknown dataset."""
    if settings.name == "sort":
        return SortTask(settings.digits, seed, split)
    if settings.name == "reasoning_gym":
        return ReasoningGymTask(settings.datasets, seed, split)
    assert settings.file is not None  # the settings model has checked it
    held_out = settings.held_out_file if split is Split.HELD_OUT else None
    prompts = read_jsonl(held_out or settings.file)
    if settings.effective_verifier == "reasoning_gym":
        check_scorable(prompts)
    return JsonlTask((held_out or settings.file).stem, prompts, seed)


def read_jsonl(file: Path) -> list[Prompt]:
    """The prompts of a file. Raises TaskError with the line that is wrong."""
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
        metadata = row.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise TaskError(f"{file}, line {number}: the metadata must be an object, got {metadata!r}")
        return Prompt(
            prompt_id=str(row.get("id", f"{file.stem}-{number}")),
            text=row["prompt"],
            answer=str(row["answer"]),
            metadata=metadata,
        )
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise TaskError(f"{file}, line {number}: expected a JSON object, got {line[:80]!r}") from error
    except KeyError as error:
        raise TaskError(f"{file}, line {number}: the key {error} is missing") from error
