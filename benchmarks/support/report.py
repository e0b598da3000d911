"""What every benchmark ends with: its figures, on what machine and of which commit they are, in a file and a line."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

from ais.comparison.machine import commit

RESULTS = Path(os.environ.get("AIS_BENCH_RESULTS") or Path(__file__).parents[1] / "results")
"""Where figures are recorded: benchmarks/results, or the directory that AIS_BENCH_RESULTS names for a trial run."""

Figure = dict[str, float | str | None]


def figure(value: float, unit: str, reference: float | None = None) -> Figure:
    ratio = None if reference is None else value / reference
    return {"value": value, "unit": unit, "reference": reference, "ratio": ratio}


def spread(values: Sequence[float], unit: str, reference: float | None = None) -> Figure:
    """The median, with the lowest and the highest of the rounds."""
    return figure(median(values), unit, reference) | {"lowest": min(values), "highest": max(values)}


def publish(
    bench: str,
    figures: Mapping[str, Figure],
    *also: str,
    file: str = "",
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Writes `results/FILE.json`, by default the benchmark's name, and prints the same as the last line.

    `also` is told of the machine, such as the version of a library. See `record`.
    """
    print(json.dumps(record(bench, figures, *also, file=file, skipped=skipped)))


def record(
    bench: str,
    figures: Mapping[str, Figure],
    *also: str,
    file: str = "",
    skipped: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Writes the file of `publish` alone, and gives what is in it. `skipped`: what was not measured, and why."""
    result: dict[str, object] = {"bench": bench, "machine": ", ".join((machine(), *also)), "commit": commit()}
    result |= {"figures": figures}
    result |= {"skipped": skipped} if skipped else {}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{file or bench}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def machine() -> str:
    """Processor and what torch uses of it."""
    cpu = Path("/proc/cpuinfo")
    names = [
        line.partition(": ")[2]
        for line in cpu.read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor()
    features = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({features}), {os.cpu_count()} cores, {torch.get_num_threads()} thread, torch {torch.__version__}"
