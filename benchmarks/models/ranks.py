"""What a trainer of one process, or of several ranks, publishes of a model: before a step of training, and after it.

    python -m ais.trainer.ranks.torchrun --nproc-per-node 2 benchmarks/models/ranks.py OUTPUT MODEL ...

For each model directory OUTPUT/{its name} has then the directories first and other, two versions as Hugging Face
directories; other comes with its probe. Several models in a row: starting ranks is what takes time.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from ais.contracts.sampling import Precision
from ais.runtime.process import die_with_parent
from ais.runtime.settings import RunSettings
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks, join
from ais.trainer.ranks.sharding import load_policy
from ais.trainer.settings import ComputeSettings, OptimizerSettings, TrainerSettings
from ais_core import CorrectionSettings
from benchmarks.gpu.groups import Shape, made_up

RANKS = 2
FIRST, OTHER = "first", "other"
BATCH = Shape(groups=4, samples=4, prompt=12, response=16)
TOKENS_PER_MICROBATCH = 256
"""So that each of two ranks has several microbatches."""
LEARNING_RATE = 3e-3
"""A step that the scores of a tiny model show."""
STARTED_SECONDS = 300.0


def publish(model: Path, directory: Path, ranks: Ranks) -> None:
    """Both versions, in `directory`, which the first rank makes. All ranks call it."""
    groups = made_up(Policy.load(model, "cpu"), BATCH, TOKENS_PER_MICROBATCH, Precision())
    settings = TrainerSettings(
        compute=ComputeSettings(device="cpu", tokens_per_microbatch=TOKENS_PER_MICROBATCH),
        optimizer=OptimizerSettings(learning_rate=LEARNING_RATE, warmup_steps=0),
    )
    run = RunSettings(steps=10, model=model)
    learner = Learner(load_policy(model, settings, ranks), run, settings, CorrectionSettings(), ranks=ranks)
    first, outcome = learner.snapshot(), learner.step(groups, PhaseClock())
    if ranks.first:
        for name, snapshot in ((FIRST, first), (OTHER, outcome.snapshot)):
            (version := directory / name).mkdir(parents=True)
            snapshot.place_in(version)
            shutil.copyfile(model / "config.json", version / "config.json")


def publish_by_ranks(models: Sequence[Path], output: Path, log: Path) -> None:
    """All of them by `RANKS` ranks under torchrun. Raises RuntimeError with the end of their output."""
    torchrun = (sys.executable, "-m", "ais.trainer.ranks.torchrun", "--nproc-per-node", str(RANKS))
    with log.open("wb") as sink:
        done = subprocess.run(
            [*torchrun, __file__, str(output), *map(str, models)],
            stdout=sink,
            stderr=subprocess.STDOUT,
            timeout=STARTED_SECONDS,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the ranks ended with {done.returncode}: {log.read_text(encoding='utf-8')[-2000:]}")


def apart(one: Path, another: Path) -> float:
    """How far the trained versions of two `publish`es are from each other, over how far the first one's step went:
    norms of all numbers together."""
    start, stepped, other = (numbers(version) for version in (one / FIRST, one / OTHER, another / OTHER))
    return float((other - stepped).norm() / (stepped - start).norm())


def alike(one: Path, another: Path) -> bool:
    """Whether two `publish`es are the same before the step, to the bit."""
    return (one / FIRST / "model.safetensors").read_bytes() == (another / FIRST / "model.safetensors").read_bytes()


def numbers(version: Path) -> torch.Tensor:
    """All of a version's, float64, by sorted name."""
    tensors = load_file(version / "model.safetensors")
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def main() -> None:
    die_with_parent()
    torch.set_num_threads(1)
    ranks = join(TrainerSettings(compute=ComputeSettings(device="cpu")))
    for model in map(Path, sys.argv[2:]):
        publish(model, Path(sys.argv[1], model.name), ranks)
    ranks.leave()


if __name__ == "__main__":
    main()
