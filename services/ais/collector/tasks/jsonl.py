"""Prompts and answers of a JSONL file: every row checked before anything starts, some kept apart for evaluation."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from ais.collector.prompts.prompts import Fits, Prompt, Split, TaskError, anything_fits
from ais.collector.settings import SourceSettings

PROBLEMS_SHOWN = 5
"""Rows of one file that an error names before it says how many more there are."""
LONGEST_ID = 256
"""Characters of a row's id: it stands in records, logs and errors."""
LONGEST_NUMBER = 1000
"""Digits of a whole number."""
SHOWN = 80
"""Characters of a wrong value that an error shows."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A prompt and the line it stands in, from 1."""

    line: int
    prompt: Prompt


class JsonlTask:
    """The prompts of a file, in a new seeded order each epoch."""

    def __init__(self, name: str, prompts: Sequence[Prompt], seed: int) -> None:
        self.name = name
        self.prompts = prompts
        self.distinct: int | None = len({prompt.text for prompt in prompts})
        self._seed = seed
        self._order = lru_cache(maxsize=2)(self._shuffled)

    @property
    def sources(self) -> tuple[JsonlTask, ...]:
        return (self,)

    def prompt(self, ordinal: int) -> Prompt:
        epoch, position = divmod(ordinal, len(self.prompts))
        return self.prompts[self._order(epoch)[position]]

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self.prompts)))
        random.Random(f"{self._seed}:{epoch}").shuffle(order)
        return order


def open_jsonl(settings: SourceSettings, seed: int, split: Split, fits: Fits = anything_fits) -> JsonlTask:
    """The prompts of a split that `fits` accepts. Raises TaskError for a file or row that cannot be used.

    Evaluation has the rows of `held_out_file`; without one, those of `file` that `is_held_out` picks. No prompt that
    evaluation has is trained on.
    """
    assert settings.file is not None  # the settings model has checked it
    source = settings.file
    rows = read_jsonl(source, settings)
    if settings.held_out_file is not None:
        others = read_jsonl(settings.held_out_file, settings)
        if split is Split.HELD_OUT:
            source, rows = settings.held_out_file, others
        else:
            rows = _without(rows, others, source)
    else:
        held_out = _held_out_texts(rows, settings.held_out_fraction)
        rows = [row for row in rows if (row.prompt.text in held_out) == (split is Split.HELD_OUT)]
    rows = _those_that_fit(rows, source, settings.too_long, fits)
    if not rows:
        raise TaskError(f"task file {source} has no {split} prompts{_advice(settings, split)}")
    return JsonlTask(settings.effective_label, [row.prompt for row in rows], seed)


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a prompt is kept for evaluation: a pure function of its text, so no other row can change it."""
    return _position(text) < fraction


def read_jsonl(file: Path, settings: SourceSettings) -> list[Row]:
    """The rows of a file. Raises TaskError that names the file, and line and field of the first rows that are wrong."""
    rows, problems = [], []
    lines: dict[str, int] = {}
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            prompt = _parse(file, number, line, settings)
        except (ValueError, RecursionError) as error:
            reason = "is nested too deeply" if isinstance(error, RecursionError) else error
            problems.append(f"{file}, line {number}: {reason}")
            continue
        if (first := lines.setdefault(prompt.prompt_id, number)) != number:
            problems.append(f"{file}, line {number}: id: {prompt.prompt_id!r} is that of line {first} too")
        rows.append(Row(number, prompt))
    _raise(problems)
    if not rows:
        raise TaskError(f"task file {file} has no prompts")
    return rows


def _lines(file: Path) -> list[str]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise TaskError(f"cannot read task file {file}: {error.strerror}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4096]:
        raise TaskError(f"task file {file} is not UTF-8 but looks like UTF-16: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TaskError(f"task file {file}, line {line} is not UTF-8: {error.reason}") from error
    # Not splitlines: it also splits at characters that may stand inside a JSON string.
    return re.split(r"\r\n|\n|\r", text)


def _parse(file: Path, number: int, line: str, settings: SourceSettings) -> Prompt:
    """Raises ValueError that names the field."""
    row = _json_object(line)
    for field in ("prompt", "answer"):
        if field not in row:
            raise ValueError(f"{field}: the key is missing")
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        _expected("metadata", "an object", metadata)
    prompt = Prompt(
        prompt_id=_id(row.get("id"), f"{file.stem}-{number}"),
        text=_text(row["prompt"]),
        answer=_answer(row["answer"]),
        metadata=metadata or {},
        source=settings.effective_label,
    )
    if settings.effective_verifier != "reasoning_gym" and not prompt.answer.strip():
        raise ValueError(f"answer: expected something to compare with, got {row['answer']!r}")
    for field, value in row.items():
        if field in ("prompt", "answer", "id", "metadata") and not _is_unicode(value):
            raise ValueError(f"{field}: half of a surrogate pair, such as \\ud83d, is not text")
    return prompt


def _json_object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_refuse_constant, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg}, column {error.colno}), got {_shown(line)}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {_shown(line)}")
    return row


def _text(value: object) -> str:
    if not isinstance(value, str):
        _expected("prompt", "text", value)
    if not value.strip():
        raise ValueError(f"prompt: must not be empty, got {value!r}")
    return value


def _answer(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _expected("answer", "text or a finite number", value)
    return str(value)


def _id(value: object, default: str) -> str:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, str | int):
        _expected("id", "text or a whole number", value)
    if not 1 <= len(str(value)) <= LONGEST_ID:
        raise ValueError(f"id: expected 1 to {LONGEST_ID} characters, got {len(str(value))}")
    return str(value)


def _is_unicode(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _whole_number(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits is too long: write it as text")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _expected(field: str, what: str, got: object) -> NoReturn:
    raise ValueError(f"{field}: expected {what}, got {_shown(json.dumps(got))}")


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _raise(problems: Sequence[str]) -> None:
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        raise TaskError("\n".join([*problems[:PROBLEMS_SHOWN], *([f"... and {more} more"] if more > 0 else [])]))


def _advice(settings: SourceSettings, split: Split) -> str:
    if settings.held_out_file is None:
        return ": it needs two different ones that fit, one to train on and one to evaluate on"
    return " that fit" if split is Split.HELD_OUT else " that fit and are not in the held-out file"


def _held_out_texts(rows: Iterable[Row], fraction: float) -> set[str]:
    """The texts kept for evaluation; in a file so small that there is none, the one nearest to it."""
    texts = {row.prompt.text for row in rows}
    if len(texts) == 1:
        return set()
    return {text for text in texts if is_held_out(text, fraction)} or {min(texts, key=_position)}


def _position(text: str) -> float:
    """Where a text stands among all texts, evenly spread over [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _without(rows: Sequence[Row], others: Sequence[Row], source: Path) -> list[Row]:
    taken = {row.prompt.text for row in others}
    kept = [row for row in rows if row.prompt.text not in taken]
    if len(kept) < len(rows):
        logger.warning(
            "prompts that the held-out file has too are left out of training",
            extra={"file": str(source), "left_out": len(rows) - len(kept)},
        )
    return kept


def _those_that_fit(rows: Sequence[Row], source: Path, too_long: str, fits: Fits) -> list[Row]:
    longer = [row for row in rows if not fits(row.prompt.text)]
    if not longer:
        return list(rows)
    if too_long == "refuse":
        _raise(
            [
                f"{source}, line {row.line}: prompt: longer than the replicas' context; rollout.max_model_len sets "
                'theirs, collector.task.too_long = "skip" leaves such prompts out'
                for row in longer
            ]
        )
    logger.warning("prompts too long for the replicas are left out", extra={"file": str(source), "count": len(longer)})
    dropped = {row.line for row in longer}
    return [row for row in rows if row.line not in dropped]
