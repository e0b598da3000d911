"""How many replicas a run that goes on is to have: a number in a file of its directory, which its launcher follows."""

from __future__ import annotations

from pathlib import Path

from ais.runtime.files import replace_file


def ask(file: Path, replicas: int) -> None:
    """Asks the launcher for `replicas`, now and whenever the run is resumed."""
    replace_file(file, f"{replicas}\n")


def asked(file: Path) -> int | None:
    """The number asked for; None when nobody has, or it is none."""
    try:
        replicas = int(file.read_text())
    except (OSError, ValueError):
        return None
    return replicas if replicas > 0 else None
