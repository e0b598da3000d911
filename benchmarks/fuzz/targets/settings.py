"""Settings: a TOML file, and what `--set` says."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ais.runtime.reading import read_settings
from ais.runtime.settings import SettingsError
from ais.settings import Settings
from benchmarks.fuzz.target import Target, Targets

_TEMPORARY = tempfile.TemporaryDirectory(prefix="ais-fuzz-")
FILE = Path(_TEMPORARY.name) / "config.toml"

_FILES = tuple(path.read_bytes() for path in sorted(Path(__file__).parents[3].glob("examples/*/config.toml")))
_OVERRIDES = (
    b'run.steps=5\nredis.url=rediss://trainer@[::1]:6379/0\nrollout.engine=vllm\nevaluation.metric="pass@1"',
    b"collector.task.reward=[{kind='exact', weight=1.0}]\nrun.name=2025",
)


def read_file(content: bytes) -> None:
    FILE.write_bytes(content)
    read_settings(Settings, FILE, (), {})


def read_overrides(content: bytes) -> None:
    """One `--set` a line."""
    read_settings(Settings, None, content.decode(errors="surrogateescape").split("\n"), {})


TARGETS: Targets = {
    "settings": Target(read_file, (SettingsError,), _FILES),
    "overrides": Target(read_overrides, (SettingsError,), _OVERRIDES),
}
