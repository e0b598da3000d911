"""All settings in one model: what `ais` checks before it starts anything, and what `ais config` prints.

Each service owns its section, and alone says what the defaults are.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Secret, model_validator

from ais.collector.agent.settings import AgentSettings
from ais.collector.settings import CollectorSettings
from ais.contracts.evaluation.settings import EvaluationSettings
from ais.launcher.settings import LauncherSettings
from ais.launcher.tracking.settings import TrackingSettings
from ais.rollout.settings import RolloutSettings, check_routing
from ais.runtime.files import FOR_OWNER, replace_file
from ais.runtime.logging import LoggingSettings
from ais.runtime.reading import choices_of, field_types, read_settings
from ais.runtime.security.settings import SecuritySettings
from ais.runtime.settings import RedisSettings, RunSettings, Section
from ais.trainer.settings import TrainerSettings, check_sections
from ais_core.settings import CorrectionSettings

COMMENT_WIDTH = 100


class Settings(Section):
    """Every section of a settings file."""

    run: RunSettings = RunSettings()
    redis: RedisSettings = RedisSettings()
    security: SecuritySettings = SecuritySettings()
    rollout: RolloutSettings = RolloutSettings()
    collector: CollectorSettings = CollectorSettings()
    agent: AgentSettings = AgentSettings()
    trainer: TrainerSettings = TrainerSettings()
    correction: CorrectionSettings = CorrectionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    launcher: LauncherSettings = LauncherSettings()
    tracking: TrackingSettings = TrackingSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        check_sections(self.run, self.trainer, self.correction)
        check_routing(self.run, self.rollout)
        source = self.evaluation.metric.rpartition("/")[0]
        known = [one.effective_label for one in self.collector.task.each_source]
        if source and source not in known:
            raise ValueError(f"evaluation.metric names the source {source!r}; there are: {', '.join(known)}")
        if self.rollout.drain_seconds >= self.launcher.stop_grace_seconds:
            raise ValueError(
                f"launcher.stop_grace_seconds = {self.launcher.stop_grace_seconds:g} must be more than "
                f"rollout.drain_seconds = {self.rollout.drain_seconds:g}: a replica would be killed while it drains"
            )
        return self


def load(file: Path | None, overrides: Iterable[str] = ()) -> Settings:
    """The effective settings, checked. Raises SettingsError naming every wrong key, with the nearest known one."""
    return read_settings(Settings, file, overrides)


def save(settings: Settings, file: Path) -> None:
    """Writes settings that read back the same, passwords included; only the file's owner may read it."""
    replace_file(file, to_toml(settings, passwords=True), FOR_OWNER)


def to_toml(settings: Settings, passwords: bool = False) -> str:
    """Settings as TOML, each field's documentation and choices above it; passwords are masked, unless asked for.

    Reading it gives the same settings, wherever the file lies: its paths are absolute.
    """
    return "\n".join(_section(settings, "", passwords)).strip() + "\n"


def _section(section: Any, path: str, passwords: bool) -> Iterator[str]:
    documentation = _documentation(type(section))
    choices = {name: choices_of(annotation) for name, annotation in field_types(type(section)).items()}
    nested = {}
    for name, value in _values(section).items():
        if _is_section(value):
            nested[name] = value
            continue
        yield from _comment(documentation.get(name, ""))
        if choices[name]:
            yield from _comment(f"One of: {', '.join(choices[name])}.")
        if passwords and isinstance(value, Secret):
            value = value.get_secret_value()
        yield f"# {name} =  (not set)" if value is None else f"{name} = {_literal(value)}"
    for name, value in nested.items():
        yield ""
        yield from _comment(documentation.get(name, "") or inspect.cleandoc(type(value).__doc__ or ""))
        yield f"[{path}{name}]"
        yield from _section(value, f"{path}{name}.", passwords)


def _is_section(value: object) -> bool:
    return isinstance(value, BaseModel) or dataclasses.is_dataclass(value)


def _values(section: Any) -> Mapping[str, Any]:
    if isinstance(section, BaseModel):
        return {name: getattr(section, name) for name in type(section).model_fields}
    return {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}


def _documentation(section: type) -> Mapping[str, str]:
    """Docstring below each field, by name."""
    if issubclass(section, BaseModel):
        return {name: field.description or "" for name, field in section.model_fields.items()}
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                found[name] = inspect.cleandoc(text)
    return found


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(" ".join(text.split()), COMMENT_WIDTH):
        yield f"# {line}"


def _literal(value: Any) -> str:
    """A TOML value. JSON's strings are TOML's basic strings, but for the characters beyond ASCII."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_literal(item) for item in value)}]"
    if _is_section(value) or isinstance(value, Mapping):
        items = value if isinstance(value, Mapping) else _values(value)
        return "{" + ", ".join(f"{_key(k)} = {_literal(v)}" for k, v in items.items() if v is not None) + "}"
    return json.dumps(str(value.absolute() if isinstance(value, Path) else value), ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else json.dumps(name, ensure_ascii=False)
