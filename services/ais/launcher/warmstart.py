"""`ais warmstart`: demonstrations piped into supervised training."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ais.launcher.processes.commands import module
from ais.launcher.processes.processes import service_environment


def warm_start(output: Path, *, task: str, noise: float, steps: int, batch_size: int, seed: int) -> int:
    """Writes a Hugging Face directory to `output`. Returns the exit code of the process that failed, or 0."""
    environment = service_environment()
    demonstrations = subprocess.Popen(
        module(
            "ais.collector.tasks.demonstrations",
            *("--task", task, "--noise", str(noise), "--count", str(steps * batch_size), "--seed", str(seed)),
        ),
        stdout=subprocess.PIPE,
        env=environment,
    )
    training = subprocess.Popen(
        module(
            "ais.trainer.demo.warmstart",
            *("--output", str(output), "--steps", str(steps), "--batch-size", str(batch_size), "--seed", str(seed)),
        ),
        stdin=demonstrations.stdout,
        env=environment,
    )
    assert demonstrations.stdout is not None
    demonstrations.stdout.close()  # the trainer alone holds the reading end: when it dies, the writer is told
    try:
        return training.wait() or demonstrations.wait()
    finally:
        for process in (training, demonstrations):
            process.kill()
            process.wait()
