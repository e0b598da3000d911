"""The processes of a warm start: demonstrations piped into supervised training."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ais.launcher.processes.commands import module
from ais.launcher.processes.processes import guarded, service_environment
from ais.launcher.settings import WarmStartSettings


def warm_start(output: Path, config: Path, settings: WarmStartSettings) -> int:
    """Writes a Hugging Face directory to `output` for the task of the settings file `config`.

    Returns the exit code of the process that failed, which has said why, or 0.
    """
    environment = service_environment()
    target = ("--accuracy", str(settings.accuracy), "--seed", str(settings.seed))
    demonstrations = subprocess.Popen(
        guarded(module("ais.collector.tasks.demonstrations", "-c", str(config), *target)),
        stdout=subprocess.PIPE,
        env=environment,
    )
    training = subprocess.Popen(
        guarded(
            module(
                "ais.trainer.demo.warmstart",
                *("--output", str(output), "--size", settings.size, *target),
                *("--family", settings.family, "--alphabet", settings.alphabet),
                *("--steps", str(settings.steps), "--batch-size", str(settings.batch_size)),
                *("--learning-rate", str(settings.learning_rate)),
            )
        ),
        stdin=demonstrations.stdout,
        env=environment,
    )
    assert demonstrations.stdout is not None
    demonstrations.stdout.close()  # the trainer alone holds the reading end: when it dies, the writer is told
    try:
        failed = training.wait()
        return (demonstrations.wait() or failed) if failed else 0
    finally:
        for process in (training, demonstrations):
            process.kill()
            process.wait()
