"""Settings of an agent: section [agent]."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ais.runtime.logging import LoggingSettings
from ais.runtime.security.settings import SecuritySettings
from ais.runtime.settings import RunSettings, Section


class AgentSettings(Section):
    """What plays episodes elsewhere than on the collector's machine."""

    url: str = Field(default="", pattern=r"^(https?://[^/?#\s]+)?$", max_length=500)
    """Where the collector gives episodes, such as http://HOST:PORT: its collector.agents_host and agents_port. https://
    where the run has security.certificates."""
    command: tuple[str, ...] = ()
    """The program and its arguments, started for each episode as environment.command is. `python` is this one's."""
    directory: Path | None = None
    """Where the program starts. None: the current directory."""
    programs: int = Field(default=4, ge=1, le=128)
    """Episodes that are played at once."""


class AgentProcessSettings(Section):
    """All that an agent reads from the settings file."""

    run: RunSettings = RunSettings()
    security: SecuritySettings = SecuritySettings()
    agent: AgentSettings = AgentSettings()
    logging: LoggingSettings = LoggingSettings()
