"""What a collector has its keepers keep: workers, which judge and run environments, and programs that play episodes.

(Linux only: elsewhere there are none to be found.)
"""

from __future__ import annotations

import os
from pathlib import Path

KEEPER = "ais.collector.judging.keeper"
"""The module that keeps one of them; with arguments, a program."""
WORKER, PROGRAM = "worker", "program"


def kept_below(collector: int) -> dict[str, list[int]]:
    """Process ids of what is kept now below a collector's process, by kind; without kinds that there are none of."""
    found: dict[str, list[int]] = {}
    for keeper in _children(collector):
        arguments = _arguments(keeper)
        if KEEPER in arguments:
            kind = WORKER if arguments[-1] == KEEPER else PROGRAM
            found.setdefault(kind, []).extend(_children(keeper))
    return {kind: sorted(processes) for kind, processes in found.items() if processes}


def _children(process: int) -> list[int]:
    """None of a process that has gone."""
    try:
        listings = [thread / "children" for thread in Path(f"/proc/{process}/task").iterdir()]
        return [int(child) for listing in listings for child in listing.read_text(encoding="ascii").split()]
    except OSError:
        return []


def _arguments(process: int) -> list[str]:
    try:
        return [os.fsdecode(one) for one in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[:-1]]
    except OSError:
        return []
