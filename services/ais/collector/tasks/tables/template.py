"""Values of a row by the dotted names of its columns, and texts that are made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ais.collector.tasks.tables.rows import Row

_PLACE = re.compile(r"\{\{(\w[\w.-]*)\}\}|\{([A-Za-z_][\w.-]*)\}")


def value_at(row: Row, column: str) -> Any:
    """The value of a column, of one inside objects by a dotted name. Raises ValueError where the row has none."""
    if column in row:
        return row[column]
    value: Any = row
    for number, part in enumerate(parts := column.split(".")):
        if not isinstance(value, Mapping) or part not in value:
            where = f" in {'.'.join(parts[:number])}" if number else ""
            raise ValueError(f"{column}: the key is missing{where}{_there_is(value)}")
        value = value[part]
    return value


def columns_in(template: str) -> tuple[str, ...]:
    """The columns that a template names."""
    return tuple(match[2] for match in _PLACE.finditer(template) if match[2])


def filled(template: str, row: Row) -> str:
    r"""The template with `{column}` replaced by the column's value, lists and objects as JSON.

    Any other brace stays as it is, such as those of \boxed{}; `{{name}}` is `{name}`. Raises ValueError for a column
    that the row does not have, or that is null.
    """

    def replacement(match: re.Match[str]) -> str:
        return f"{{{match[1]}}}" if match[1] else _as_text(match[2], value_at(row, match[2]))

    return _PLACE.sub(replacement, template)


def _as_text(column: str, value: Any) -> str:
    if value is None:
        raise ValueError(f"{column}: expected something for the template, got null")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _there_is(value: Any) -> str:
    names = sorted(map(str, value)) if isinstance(value, Mapping) else []
    return f"; there is {', '.join(names[:12])}" if names else ""
