"""Trains on guessing a number twice with each seed: played by the collector's own environment, and by a program.

    python -m benchmarks.guessing.training                    # seeds 0 and 1, 80 steps of 64 episodes
    python -m benchmarks.guessing.training --seeds 0 --steps 20 --groups 4 --prompts 0     # as recorded

The program is examples/openai_client/guess.py as it stands, which knows nothing but OpenAI's client; each episode has a
process of its own, forked from one that has that client imported (forking.py). Everything else is that of
examples/guess_number, seeds of prompts and sampling included. Runs are recorded one after another, and what is recorded
already is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.guessing.curves import RECORDS, WAYS, Curve, Way, curve_of, recorded, table

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PLAYER = EXAMPLES / "openai_client"
HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--groups", type=int, default=8, help="of eight episodes each, in a step")
    parser.add_argument("--prompts", type=int, default=256, help="held-out prompts that the last policy is scored on")
    parser.add_argument("--output", type=Path, default=RECORDS)
    arguments = parser.parse_args()
    done = {(one.way, one.seed) for one in recorded(arguments.output)}
    for seed in arguments.seeds:
        for way in WAYS:
            if (way, seed) in done:
                continue
            sizes = (
                f"run.steps={arguments.steps}",
                f"run.groups_per_batch={arguments.groups}",
                f"launcher.evaluation_prompts={arguments.prompts}",
            )
            curve = _run(way, seed, sizes)
            with arguments.output.open("a", encoding="utf-8") as file:
                file.write(curve.model_dump_json() + "\n")
    print("\n".join(table(recorded(arguments.output))))


def _run(way: Way, seed: int, sizes: Sequence[str]) -> Curve:
    """One run. Raises CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory(prefix="ais-guessing-") as parent, _playing(way, Path(parent)) as environment:
        settings = (
            f"run.directory={parent}",
            "run.name=guessing",
            f"run.seed={seed}",
            *sizes,
            "launcher.evaluation_checkpoints=2",
            "trainer.samples_per_step=64",
            *environment,
        )
        overrides = [part for setting in settings for part in ("--set", setting)]
        command = [sys.executable, "-m", "ais.cli", "run", "-c", str(EXAMPLES / "guess_number" / "config.toml")]
        subprocess.run([*command, *overrides], check=True, stdout=sys.stderr)
        return curve_of(way, seed, Path(parent) / "guessing")


@contextmanager
def _playing(way: Way, parent: Path) -> Iterator[Sequence[str]]:
    """Settings of who plays, while there is something to play."""
    if way == "environment":
        yield ()
        return
    path = parent / "socket"
    command = [sys.executable, str(HERE / "forking.py"), str(path), str(PLAYER / "guess.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as forking:
        assert forking.stdout is not None
        try:
            forking.stdout.readline()
            play = json.dumps(["python", "-I", "-S", str(HERE / "forked.py"), str(path)])
            task = "collector.task.environment"
            yield (
                f"{task}.name=harness",
                f"{task}.command={play}",
                f"collector.prompt.chat_template={PLAYER / 'template.jinja'}",
            )
        finally:
            forking.kill()


if __name__ == "__main__":
    main()
