"""From a row of a table to a prompt, by the columns that the settings name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ais.collector.prompts.prompts import Messages, Prompt, TaskError
from ais.collector.settings.sources import ColumnSettings
from ais.collector.tasks.tables.rows import Row, shown
from ais.collector.tasks.tables.template import columns_in, filled, value_at

LONGEST_ID = 256
"""Characters of a row's id: it stands in records, logs and errors."""
ROLES_ASKED = ("user", "tool", "developer", "system")
"""Who may have the last word of a chat that the policy goes on with."""


@dataclass(frozen=True)
class PromptReader:
    """Makes prompts of rows."""

    columns: ColumnSettings
    source: str
    """The label that prompts carry."""
    needs_answer: bool
    """Whether an answer without a letter in it is an error."""
    answer_pattern: re.Pattern[str] | None = None
    check: Callable[[Prompt], None] | None = None
    """Raises ValueError for a prompt that the verifier cannot judge."""

    @classmethod
    def of(
        cls,
        columns: ColumnSettings,
        source: str,
        needs_answer: bool,
        check: Callable[[Prompt], None] | None = None,
    ) -> PromptReader:
        """Raises TaskError for a pattern that does not compile."""
        try:
            pattern = re.compile(columns.answer_pattern) if columns.answer_pattern else None
        except re.error as error:
            raise TaskError(
                f"collector.task.columns.answer_pattern {columns.answer_pattern!r} is not a regular expression: {error}"
            ) from error
        return cls(columns, source, needs_answer, pattern, check)

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that every row must have, by their dotted names."""
        asked = columns_in(self.columns.template) if self.columns.template else (self.columns.prompt,)
        named = (self.columns.answer, self.columns.id, *self.columns.metadata.values())
        return tuple(dict.fromkeys(name for name in (*asked, *named) if name))

    @property
    def welcome(self) -> tuple[str, ...]:
        """Columns that are read where there are any: those of the defaults."""
        return tuple(
            name for name, unset in (("id", not self.columns.id), ("metadata", not self.columns.metadata)) if unset
        )

    def prompt(self, row: Row, default_id: str) -> Prompt:
        """Raises ValueError that names the column."""
        text, messages = self._question(row)
        prompt = Prompt(
            prompt_id=self._id(row, default_id),
            text=text,
            answer=self._answer(row),
            metadata=self._metadata(row),
            source=self.source,
            messages=messages,
        )
        named = {"prompt": text, "answer": prompt.answer, "id": prompt.prompt_id}
        for column, value in (*named.items(), ("prompt", messages), ("metadata", prompt.metadata)):
            if value and not _is_unicode(value):
                raise ValueError(f"{column}: half of a surrogate pair, such as \\ud83d, is not text")
        if self.check is not None:
            self.check(prompt)
        return prompt

    def _question(self, row: Row) -> tuple[str, Messages]:
        if self.columns.template:
            text = filled(self.columns.template, row)
            if not text.strip():
                raise ValueError("the template gives an empty prompt")
            return text, ()
        column = self.columns.prompt
        value = value_at(row, column)
        if isinstance(value, list | tuple):
            messages = _chat(column, value)
            return next((m["content"] for m in reversed(messages) if m["role"] == "user"), ""), messages
        if not isinstance(value, str):
            _expected(column, "text, or a list of messages", value)
        if not value.strip():
            raise ValueError(f"{column}: must not be empty, got {value!r}")
        return value, ()

    def _answer(self, row: Row) -> str:
        column = self.columns.answer
        if not column:
            return ""
        value = value_at(row, column)
        if self.columns.answer_is_json:
            return _json_of(column, value)
        answer = _text_of(column, value)
        if self.answer_pattern is not None:
            match = None
            for match in self.answer_pattern.finditer(answer):  # noqa: B007  # the last one
                pass
            if match is None:
                raise ValueError(f"{column}: answer_pattern matches nothing in {shown(json.dumps(answer))}")
            answer = next((group for group in match.groups() if group is not None), match.group()).strip()
        if self.needs_answer and not answer.strip():
            raise ValueError(f"{column}: expected something to compare with, got {value!r}")
        return answer

    def _id(self, row: Row, default: str) -> str:
        value = value_at(row, self.columns.id) if self.columns.id else row.get("id")
        if value is None:
            return default
        column = self.columns.id or "id"
        if isinstance(value, bool) or not isinstance(value, str | int):
            _expected(column, "text or a whole number", value)
        if not 1 <= len(str(value)) <= LONGEST_ID:
            raise ValueError(f"{column}: expected 1 to {LONGEST_ID} characters, got {len(str(value))}")
        return str(value)

    def _metadata(self, row: Row) -> Mapping[str, Any]:
        if self.columns.metadata:
            return {name: _plain(column, value_at(row, column)) for name, column in self.columns.metadata.items()}
        value = row.get("metadata")
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            _expected("metadata", "an object", value)
        return {str(name): _plain(f"metadata.{name}", item) for name, item in value.items()}


def _chat(column: str, value: list[Any] | tuple[Any, ...]) -> Messages:
    if not value:
        raise ValueError(f"{column}: must not be empty, got []")
    for number, message in enumerate(value):
        where = f"{column}.{number}"
        if not isinstance(message, Mapping):
            _expected(where, "a message with role and content", message)
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                _expected(f"{where}.{key}", "text", message.get(key))
    if value[-1]["role"] not in ROLES_ASKED:
        raise ValueError(
            f"{column}: the last message must be one to answer, of the role user, got {shown(repr(value[-1]['role']))}"
        )
    return tuple({key: item for key, item in message.items() if item is not None} for message in value)


def _text_of(column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _expected(column, "text or a finite number", value)
    return str(value)


def _json_of(column: str, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{column}: cannot be written as JSON: {error}") from error


def _plain(column: str, value: Any) -> Any:
    """A value as JSON has it: dates as text."""
    try:
        return json.loads(json.dumps(value, default=_date, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{column}: cannot be written as JSON: {error}") from error


def _date(value: Any) -> str:
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"it is a {type(value).__name__}")


def _is_unicode(value: object) -> bool:
    try:
        (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _expected(column: str, what: str, got: object) -> NoReturn:
    raise ValueError(f"{column}: expected {what}, got {shown(json.dumps(got, default=repr))}")
