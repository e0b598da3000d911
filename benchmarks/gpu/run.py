"""`ais run` of the demo: everything together, the trainer and the replicas on the device."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.gpu import processes
from benchmarks.gpu.points import Session, Values

CONFIG = Path(__file__).parents[2] / "examples" / "sort16" / "config.toml"
STEPS = "steps.jsonl"
EVALUATED_PROMPTS = 128
ENDS = 5
"""Steps at either end whose rewards are averaged."""


def measure(session: Session) -> None:
    session.measure(f"demo, {session.steps} steps", lambda: _ran(session))


def _ran(session: Session) -> Values:
    with tempfile.TemporaryDirectory() as directory:
        settings = {
            "run.directory": directory,
            "run.steps": session.steps,
            "trainer.compute.device": session.device,
            "launcher.evaluation_prompts": EVALUATED_PROMPTS,
        }
        overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        command = [sys.executable, "-m", "ais.cli", "run", "-c", str(CONFIG), *overrides]
        begun = time.monotonic()
        code, late = processes.run(command, session.seconds_left)
        seconds = time.monotonic() - begun
        run = Path(directory) / "demo"
        if code:
            _print_logs(run)
        records = _records(run / STEPS)
        if records:
            session.out.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / STEPS, session.out / f"run_{STEPS}")
    values: dict[str, float | str] = {"seconds": seconds, "exit": code, **(_figures(records) if records else {})}
    if code or late:
        return values | {"error": "the time was up" if late else f"ais run ended with {code}"}
    return values


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _figures(records: list[dict[str, Any]]) -> dict[str, float]:
    phases = {
        f"{phase}_seconds": median(record["phase_seconds"][phase] for record in records)
        for phase in records[0]["phase_seconds"]
    }
    return {
        "steps": len(records),
        "reward_first": mean(record["reward_mean"] for record in records[:ENDS]),
        "reward_last": mean(record["reward_mean"] for record in records[-ENDS:]),
        "log_ratio_abs_mean": mean(record["log_ratio_abs_mean"] for record in records),
        "step_seconds": median(record["step_seconds"] for record in records),
        **phases,
    }


def _print_logs(run: Path) -> None:
    """What the services said last, of a run that failed."""
    for log in sorted(run.glob("**/*.log")):
        print(f"{log.name}:\n{log.read_text(encoding='utf-8', errors='replace')[-1500:]}", flush=True)
