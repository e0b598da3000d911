"""Reading settings: one TOML file, then `AIS_` environment variables, then `--set a.b=c`; later ones win.

The environment and `--set` give text. What the text means depends on the setting: for one that holds text or a path it
stays text (`--set run.name=2025`), for others it is read as TOML (`5`, `0.1`, `true`, `[1, 2]`).

A relative path in a file counts from the file's directory, one from the environment or from `--set` from the current
directory.
"""

from __future__ import annotations

import copy
import dataclasses
import glob
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from ais.runtime.explaining import explain, shown
from ais.runtime.network.redis_url import RedisUrl
from ais.runtime.settings import SettingsError

ENVIRONMENT_PREFIX = "AIS_"
ENVIRONMENT_SEPARATOR = "__"
DEEPEST = 16
"""Parts of the longest dotted key. Settings have four; the parser's time grows with the square of them."""

MOST_OTHERS = 50
"""Directories that are named when a settings file is not there."""

_DEEP_KEY = re.compile(rf"(?<![\w\"'-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+){{{DEEPEST}}}")

_PATHS = tuple[Path, ...]

Model = TypeVar("Model", bound=BaseModel)


def read_settings(
    model: type[Model],
    file: Path | None = None,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] = os.environ,
    *,
    whole: bool = True,
    earlier_release: bool = False,
) -> Model:
    """The effective settings.

    With `whole` an unknown section is an error; a service, which knows its own sections, leaves the others alone. With
    `earlier_release`, the file may have keys that have moved since, and its relative paths count from the current
    directory, as they did then.

    Raises SettingsError naming every wrong key, with the nearest known one; also for a file that cannot be read.
    """
    tree = _read_file(file) if file is not None else {}
    if earlier_release:
        tree = _with_keys_moved(model, tree)
    elif file is not None:
        anchor_paths(model, tree, file.absolute().parent)
    for name, text in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and ENVIRONMENT_SEPARATOR in name:
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split(ENVIRONMENT_SEPARATOR)
            _insert(model, tree, path, text, name)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise SettingsError(f"--set {shown(override)}: expected KEY=VALUE, such as run.steps=5")
        _insert(model, tree, key.strip().split("."), text.strip(), f"--set {shown(key)}")
    if not whole:
        tree = {name: section for name, section in tree.items() if name in model.model_fields}
    if truths := list(_truths_for_numbers(model, tree)):
        raise SettingsError("\n".join(f"setting {key}: expected a number, got true or false" for key in truths))
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise SettingsError("\n".join(explain(model, details) for details in error.errors())) from None


def _read_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(f"settings file {file} does not exist{_others_like(file)}") from None
    except IsADirectoryError:
        raise SettingsError(f"settings file {file} is a directory; name the TOML file in it") from None
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is 0x{error.object[error.start]:02x}"
        raise SettingsError(f"settings file {file} is not UTF-8 ({what}); save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise SettingsError(f"settings file {shown(str(file))} cannot be read: {error}") from None
    try:
        return _parse(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"settings file {file} is not valid TOML: {error}") from None


def _others_like(file: Path) -> str:
    """The files of that name in directories beside the one where it was looked for."""
    beside = file.absolute().parents[1:2]
    found = sorted(other.parent.name for place in beside for other in place.glob(f"*/{glob.escape(file.name)}"))
    return f"; directories beside it that have one: {', '.join(found[:MOST_OTHERS])}" if found else ""


def _parse(text: str) -> dict[str, Any]:
    """Raises ValueError or RecursionError."""
    if _DEEP_KEY.search(text):
        raise ValueError(f"a key has more than {DEEPEST} parts")
    return tomllib.loads(text)


def _with_keys_moved(model: type[BaseModel], tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of an earlier release as this one has it."""
    result = copy.deepcopy(dict(tree))
    for name, section in result.items():
        field = model.model_fields.get(name)
        moved: Mapping[str, str] = getattr(field.annotation, "moved", {}) if field else {}
        for old, new in moved.items() if isinstance(section, dict) else ():
            _move(section, old.split("."), new.split("."))
    return result


def _move(tree: dict[str, Any], old: list[str], new: list[str]) -> None:
    """Takes a value from its old place to the new one, unless there is one already. A section is no value."""
    place = _below(tree, old[:-1], make=False)
    if place is None or old[-1] not in place or isinstance(place[old[-1]], dict):
        return
    value = place.pop(old[-1])
    if (target := _below(tree, new[:-1], make=True)) is not None:
        target.setdefault(new[-1], value)


def _below(tree: dict[str, Any], path: list[str], *, make: bool) -> dict[str, Any] | None:
    """The section at `path`; None where there is none, or a value."""
    found: Any = tree
    for part in path:
        found = found.setdefault(part, {}) if make else found.get(part)
        if not isinstance(found, dict):
            return None
    section: dict[str, Any] = found
    return section


def anchor_paths(model: Any, tree: dict[str, Any], directory: Path) -> None:
    """Makes the tree's relative paths start at `directory`."""
    for name, value in tree.items():
        annotation = _annotation(model, name)
        if isinstance(value, dict):
            anchor_paths(annotation, value, directory)
        elif isinstance(value, str) and value and Path in members_of(annotation):
            tree[name] = str(directory / value)
        elif isinstance(value, list) and _PATHS in members_of(annotation):
            tree[name] = [str(directory / item) if isinstance(item, str) else item for item in value]
        for section, item in _sections_in_list(annotation, value):
            anchor_paths(section, item, directory)


def _truths_for_numbers(model: Any, tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Keys of numbers that have a truth value, which pydantic would take for 1 or 0."""
    for name, value in tree.items():
        annotation = _annotation(model, name)
        if isinstance(value, dict):
            yield from _truths_for_numbers(annotation, value, f"{prefix}{name}.")
        elif isinstance(value, bool) and {int, float} & set(members_of(annotation)):
            yield prefix + name
        for number, (section, item) in enumerate(_sections_in_list(annotation, value)):
            yield from _truths_for_numbers(section, item, f"{prefix}{name}.{number}.")


def _sections_in_list(annotation: Any, value: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The tables of an array of tables, each with the model that reads it, or the union of models."""
    if isinstance(value, list) and get_origin(annotation) is tuple:
        yield from ((get_args(annotation)[0], item) for item in value if isinstance(item, dict))


def _insert(model: Any, tree: dict[str, Any], path: list[str], text: str, origin: str) -> None:
    if len(path) > DEEPEST:
        raise SettingsError(f"{origin}: the key has {len(path)} parts, settings have at most four")
    try:
        text.encode()
    except UnicodeEncodeError:  # a byte of the command line or the environment that is none of UTF-8's
        raise SettingsError(f"{origin}: expected text in UTF-8, got {shown(text)}") from None
    node, annotation = tree, model
    for part in path[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise SettingsError(f"{origin}: {part} is a value, it has no keys below it")
        node, annotation = child, _annotation(annotation, part)
    value = _toml_value(text)
    holds_text = _holds_text(_annotation(annotation, path[-1]), isinstance(value, list))
    node[path[-1]] = text if holds_text and not isinstance(value, str) else value


def _toml_value(text: str) -> Any:
    """What the text is as a TOML value; the text itself where it is none."""
    try:
        document = _parse(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text


def field_types(owner: Any) -> Mapping[str, Any]:
    """Types of the fields of a pydantic model or dataclass, by name; none of anything else."""
    if not isinstance(owner, type):
        return {}
    if issubclass(owner, BaseModel):
        return {name: field.annotation for name, field in owner.model_fields.items()}
    return get_type_hints(owner) if dataclasses.is_dataclass(owner) else {}


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The values that a setting of this type may have, where they are listed; of a tuple, its members'."""
    return tuple(
        str(choice)
        for part in (get_args(annotation) if get_origin(annotation) is tuple else (annotation,))
        for member in members_of(part)
        if get_origin(member) is Literal
        for choice in get_args(member)
    )


def _annotation(owner: Any, name: str) -> Any:
    """Type of a field; None where there is no such field. Of a union, that of the first model that has it."""
    owners = map(field_types, members_of(owner))
    return next((types[name] for types in owners if name in types), None)


def members_of(annotation: Any) -> tuple[Any, ...]:
    """The types that a union has; of another type, itself."""
    if get_origin(annotation) is Annotated:
        return members_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(member for part in get_args(annotation) for member in members_of(part))
    return (annotation,)


def _holds_text(annotation: Any, is_list: bool) -> bool:
    """Whether a value that was written, a list or not, is text for a setting of this type."""
    members = [member for member in members_of(annotation) if member is not NoneType]
    if _PATHS in members and not is_list:
        members.remove(_PATHS)
    return bool(members) and all(member in (str, Path, RedisUrl) or get_origin(member) is Literal for member in members)
