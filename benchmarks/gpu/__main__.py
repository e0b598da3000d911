"""Runs parts of the GPU's measurements, each in a process of its own; `benchmarks/gpu/run.sh` prepares a bare machine.

    python -m benchmarks.gpu --out DIR                                   every part, in their usual order
    python -m benchmarks.gpu rollout:120 devices --out DIR               these, in this order; up to 120 s for the first
    python -m benchmarks.gpu compare --file FILE --workers 8 --out DIR   `ais compare`, which needs a file
    python -m benchmarks.gpu correction --device cpu --small --out DIR   that the part works, on a processor

Every point is in DIR/gpu.json as soon as it is measured. The same command goes on with those that are missing. Exit
codes: 0 all points are measured, 1 some failed or had no time left, 3 there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from ais.comparison.machine import commit
from ais.runtime.exits import EXIT_FAILED, EXIT_UNAVAILABLE
from benchmarks.gpu import processes
from benchmarks.gpu.points import FILE, Points, Session, shown
from benchmarks.support.report import machine

PARTS = ("devices", "correction", "rollout", "trainer", "run", "compare")
"""Each a module of this package with a function `measure`, in the order in which they are run."""
SECONDS = 75.0
"""After which a part begins no new point."""
GRACE_SECONDS = 60.0
"""How much longer it may take to end the point that it is at."""
LONGEST_VALUE = 40
"""Characters of a value that the table shows."""


@dataclass(frozen=True)
class Wanted:
    """A part, and how long it may take."""

    part: str
    seconds: float | None

    @classmethod
    def parse(cls, text: str) -> Wanted:
        part, _, seconds = text.partition(":")
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"there is no part {part}; there are {', '.join(PARTS)}")
        return cls(part, float(seconds) if seconds else None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", type=Wanted.parse, metavar="PART[:SECONDS]", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, required=True, help="directory of the results")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a part that names none: %(default)s")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="shapes of a few thousand parameters")
    parser.add_argument("--file", type=Path, help="settings that compare reads")
    parser.add_argument("--workers", type=int, default=4, help="cells that compare trains at once: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="steps of run: %(default)s")
    asked = parser.parse_args(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        print(
            f"there is no GPU here that torch can use (torch {torch.__version__}, built {built}): nothing was "
            "measured. With --device cpu --small the parts run on a processor, to see that they work.",
            file=sys.stderr,
        )
        return EXIT_UNAVAILABLE
    Points(asked.out / FILE).describe(_described(asked.device))
    wanted = asked.parts or [Wanted(part, None) for part in PARTS if part != "compare" or asked.file]
    if len(wanted) == 1:
        return _measure(wanted[0], asked)
    codes = [_measure_apart(one, asked) for one in wanted]
    _print_table(Points(asked.out / FILE))
    return max(codes)


def _measure(wanted: Wanted, asked: argparse.Namespace) -> int:
    """Measures a part in this process."""
    seconds = asked.seconds if wanted.seconds is None else wanted.seconds
    session = Session(
        part=wanted.part,
        out=asked.out,
        device=asked.device,
        small=asked.small,
        end=monotonic() + seconds,
        file=asked.file,
        workers=asked.workers,
        steps=asked.steps,
    )
    importlib.import_module(f"benchmarks.gpu.{wanted.part}").measure(session)
    return EXIT_FAILED if session.missing else 0


def _measure_apart(wanted: Wanted, asked: argparse.Namespace) -> int:
    """Measures a part in a process of its own: whatever happens to it, the next part is run."""
    seconds = asked.seconds if wanted.seconds is None else wanted.seconds
    command = [sys.executable, "-m", "benchmarks.gpu", wanted.part, "--out", asked.out, "--device", asked.device]
    command += ["--seconds", seconds, "--workers", asked.workers, "--steps", asked.steps]
    command += ["--small"] if asked.small else []
    command += ["--file", asked.file] if asked.file else []
    print(f"== {wanted.part}, up to {seconds:.0f} s", flush=True)
    begun = monotonic()
    code, late = processes.run([str(part) for part in command], seconds + GRACE_SECONDS)
    ended = "did not end and was killed" if late else f"ended with {code}"
    print(f"== {wanted.part} {ended} after {monotonic() - begun:.0f} s", flush=True)
    return 0 if code == 0 else EXIT_FAILED


def _described(device: str) -> dict[str, str]:
    """What is measured, and on what."""
    described = {"host": machine(), "commit": commit()}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        described["gpu"] = f"{card.name}, {card.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
    return described


def _print_table(points: Points) -> None:
    """Every point on a line, last, where it is seen."""
    print("; ".join(f"{key}: {value}" for key, value in points.machine.items()))
    for point in points.all:
        values = {key: value for key, value in point["values"].items() if len(str(value)) <= LONGEST_VALUE}
        if "error" in point["values"]:
            values = {"error": point["values"]["error"].splitlines()[0][:160]}
        print(f"{point['part']:10} {point['name']:44} {shown(values)}")


if __name__ == "__main__":
    sys.exit(main())
