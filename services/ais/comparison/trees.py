"""Settings as trees of names and values, to be merged, or laid flat with dotted names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel


def tree_of(section: Any) -> dict[str, Any]:
    """A section, model or dataclass, as nested dicts; values, such as paths and passwords, stay what they are."""
    if isinstance(section, BaseModel):
        values = {name: getattr(section, name) for name in type(section).model_fields}
    else:
        values = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    return {name: tree_of(value) if is_section(value) else value for name, value in values.items()}


def is_section(value: Any) -> bool:
    """Whether the value is a section of settings."""
    return isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def merged(tree: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with the values of `own` in their places."""
    result = dict(tree)
    for name, value in own.items():
        before = result.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            result[name] = merged(before, value)
        else:
            result[name] = value
    return result


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def at(section: Any, key: str) -> Any:
    """The value of a dotted key."""
    for part in key.split("."):
        section = getattr(section, part)
    return section
