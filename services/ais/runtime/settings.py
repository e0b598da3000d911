"""Settings: one TOML file, `AIS_` environment variables, `--set a.b=c`; later ones win.

Each service owns one pydantic model for its section; a default lives there and nowhere else. Values from the
environment and from `--set` are read as TOML (`5`, `0.1`, `true`, `[1, 2]`), and as plain text when they are not TOML.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError

ENVIRONMENT_PREFIX = "AIS_"
ENVIRONMENT_SEPARATOR = "__"


class SettingsError(ValueError):
    """The settings cannot be used. The message names the key, what is wrong, and what to write instead."""


class Section(BaseModel):
    """Base of every settings model: unknown keys are errors, field docstrings are the documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    moved: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier releases below this section, and where each is now."""


class RunSettings(Section):
    """What all services of one run must agree on."""

    name: str = Field(default="demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the run: prefix of its Redis keys and of its directory."""
    directory: Path = Path("runs")
    """Where runs are kept; this run writes to `directory/name`."""
    model: Path = Path("examples/sort16/model")
    """Hugging Face model directory the policy starts from: config, safetensors weights, tokenizer."""
    steps: int = Field(default=150, ge=1)
    """Optimizer batches to train for."""
    groups_per_batch: int = Field(default=32, ge=1)
    """Prompts in one optimizer batch."""
    samples_per_group: int = Field(default=8, ge=2)
    """Responses sampled for each prompt."""
    max_staleness: int = Field(default=1, ge=0)
    """Versions a trajectory may be behind the policy it trains. 0 is on-policy: rollout and training alternate."""
    seed: int = Field(default=0, ge=0)
    """Seed of the prompt order, of sampling and of the trainer."""
    use_proxy: bool = False
    """Whether services reach each other through the proxy that the environment names (http_proxy, grpc_proxy, ...),
    except for the hosts in no_proxy. False: always directly."""

    @property
    def path(self) -> Path:
        """Directory of this run."""
        return self.directory / self.name


class RedisSettings(Section):
    """The server that carries queue, registry and events."""

    url: str = Field(default="", pattern=r"^$|^(redis|rediss|unix)://")
    """redis://, rediss:// or unix:// URL. Empty: `ais run` starts a Valkey server of its own."""
    connect_timeout_seconds: float = Field(default=30.0, gt=0)
    """How long a service waits at start for the server to answer before it gives up."""
    operation_timeout_seconds: float = Field(default=10.0, gt=0)
    """Deadline of one call, beyond the time the call itself asks the server to wait."""


Model = TypeVar("Model", bound=BaseModel)


def read_tree(
    file: Path | None, overrides: Iterable[str] = (), environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Merges file, environment and `a.b=c` overrides into one tree of plain values.

    Raises SettingsError for a file that is missing or not TOML and for an override without `=`.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            tree = tomllib.loads(file.read_text())
        except FileNotFoundError:
            raise SettingsError(f"settings file {file} does not exist") from None
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"settings file {file} is not valid TOML: {error}") from None
    for name, value in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and ENVIRONMENT_SEPARATOR in name:
            _insert(tree, name.removeprefix(ENVIRONMENT_PREFIX).lower().split(ENVIRONMENT_SEPARATOR), value, name)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise SettingsError(f"--set {override}: expected KEY=VALUE, such as run.steps=5")
        _insert(tree, key.strip().split("."), value.strip(), f"--set {key}")
    return tree


def validate(model: type[Model], tree: Mapping[str, Any]) -> Model:
    """Turns a tree into settings. Raises SettingsError naming every wrong key, with the nearest known one."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = [_explain(model, details) for details in error.errors()]
        raise SettingsError("\n".join(problems)) from None


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of every setting below `model`."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        nested = _fields_of(field.annotation)
        keys += [f"{prefix}{name}.{key}" for key in nested] if nested else [f"{prefix}{name}"]
    return keys


def _fields_of(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return known_keys(annotation)
    if not isinstance(annotation, type) or not dataclasses.is_dataclass(annotation):
        return []
    types = get_type_hints(annotation)
    keys: list[str] = []
    for field in dataclasses.fields(annotation):
        nested = _fields_of(types[field.name])
        keys += [f"{field.name}.{key}" for key in nested] or [field.name]
    return keys


def _insert(tree: dict[str, Any], path: list[str], text: str, origin: str) -> None:
    node = tree
    for part in path[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise SettingsError(f"{origin}: {part} is a value, it has no keys below it")
        node = child
    node[path[-1]] = _parse(text)


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _new_place(model: type[BaseModel], key: str) -> str:
    """Where a key of an earlier release is now; empty for a key that never was another one."""
    section, _, name = key.partition(".")
    field = model.model_fields.get(section)
    moved: Mapping[str, str] = getattr(field.annotation, "moved", {}) if field else {}
    return f"{section}.{moved[name]}" if name in moved else ""


def _explain(model: type[BaseModel], details: Any) -> str:
    key = ".".join(str(part) for part in details["loc"])
    if place := _new_place(model, key):
        return f"setting {key} has moved: it is {place} now"
    if details["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        candidates = known_keys(model)
        sections = sorted({candidate.rpartition(".")[0] for candidate in candidates} - {""})
        nearest = difflib.get_close_matches(key, candidates + sections, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        return f"unknown setting {key}{hint} (`ais config` lists all)"
    return f"setting {key}: {details['msg']}, got {details['input']!r}"
