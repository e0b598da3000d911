"""`ais compare` of a file of settings, its cells side by side on the device.

What comes of it is kept in the folder `compare` beside the points: cells.jsonl, copied while it grows, from which the
same command goes on, and the tables of what is done when the time is up.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu import processes
from benchmarks.gpu.points import Session, Values

FOLDER = "compare"
CELLS = "cells.jsonl"
KEPT = (CELLS, "steps.parquet", "cells.csv", "summary.csv", "summary.md")
REPORT_SECONDS = 30.0
"""Kept back from the part's time for the tables."""


def measure(session: Session) -> None:
    if session.file is None:
        raise SystemExit("compare needs the settings of a comparison: --file FILE")
    session.measure(session.file.stem, lambda: _compared(session))


def _compared(session: Session) -> Values:
    assert session.file is not None
    from ais.comparison.settings import load_comparison

    name = load_comparison(session.file).run.name
    kept = session.out / FOLDER
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory) / name
        work.mkdir()
        _copy(kept, work, (CELLS,))
        command = [sys.executable, "-m", "ais.cli", "compare", "-c", str(session.file)]
        command += ["--set", f"run.directory={directory}"]
        begun = time.monotonic()
        code, late = processes.run(
            [*command, "--workers", str(session.workers)],
            max(1.0, session.seconds_left - REPORT_SECONDS),
            lambda: _copy(work, kept, (CELLS,)),
        )
        seconds = time.monotonic() - begun
        _copy(work, kept, (CELLS,))
        if late:
            processes.run([*command, "--report"], REPORT_SECONDS)
        _copy(work, kept, KEPT)
        for log in sorted((work / "logs").glob("*"))[:3] if code and not late else ():
            print(f"{log.name}:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}", flush=True)
    cells = len((kept / CELLS).read_text(encoding="utf-8").splitlines()) if (kept / CELLS).is_file() else 0
    values: dict[str, float | str] = {"seconds": seconds, "workers": session.workers, "cells": cells, "exit": code}
    if late:
        return values | {"error": f"the time was up after {cells} cells; run it again to go on"}
    if code:
        return values | {"error": f"ais compare ended with {code}"}
    return values


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
