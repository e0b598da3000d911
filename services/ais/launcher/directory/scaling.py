"""How many replicas a run is to have while it goes on: a number in its directory, which its launcher follows."""

from __future__ import annotations

from pathlib import Path

from ais.runtime.files import replace_file


def ask(file: Path, replicas: int) -> None:
    """Asks the launcher for `replicas`. A launcher that starts forgets what was asked of the one before."""
    replace_file(file, f"{replicas}\n")


def asked(file: Path) -> int | None:
    """The number asked for; None when nobody has, or it is none."""
    try:
        replicas = int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return replicas if replicas > 0 else None
