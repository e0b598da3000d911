"""A step of the trainer's learner on the device: what it takes, where the time goes, and what a version costs.

Random Qwen3 weights, 64 responses of 960 tokens to prompts of 64. The time of a step is that of steps as they are, from
one end of the device's work to the next. Its shares are of one more step, in which every phase waits for the device
before and after: they add up to more than the step, and tell what is worth looking at.

A version is written, with its digest, as a step does that; the delta is between two versions a step apart.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from ais.contracts.sampling import Precision
from ais.contracts.trajectory import ScoredGroup
from ais.contracts.weights.delta import apply_delta, encode_delta
from ais.runtime.settings import RunSettings
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.policy.adapters import adapters_of
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.settings import TrainerSettings
from ais.trainer.weights.snapshot import Snapshot, Staging
from ais_core.settings import CorrectionSettings
from benchmarks.gpu import shapes, timing
from benchmarks.gpu.groups import Shape, made_up
from benchmarks.gpu.points import Session, Values

WARM_UP_STEPS = 1
STEPS = 3
LEARNING_RATE = 1e-6
ROOM = 110e9
"""Bytes of a GPU on which 4 billion weights can be trained with their moments."""
MEMORY = Path("/dev/shm")
"""Where versions are written if `MEMORY_ROOM` bytes are free there: no disk is measured."""
MEMORY_ROOM = 40e9
THREADS = (2, 8)
"""Threads that make a delta."""
BATCH = Shape(groups=8, samples=8, prompt=64, response=960)


@dataclass(frozen=True)
class Case:
    """One way of training one model."""

    model: str
    rank: int = 0
    """Rank of the adapters; 0: all weights are trained."""
    checkpointing: bool = False
    straight_through: bool = False
    shape: Shape = BATCH
    tokens_per_microbatch: int = 16_384

    @property
    def name(self) -> str:
        way = f"lora {self.rank}" if self.rank else "full"
        more = [", straight through"] * self.straight_through + [", activation checkpointing"] * self.checkpointing
        return f"{self.model}, {way}{''.join(more)}, {self.shape.groups * self.shape.samples} x {self.shape.response}"


def cases(session: Session) -> Iterator[Case]:
    if session.small:
        shape = Shape(groups=2, samples=4, prompt=8, response=24)
        yield Case("tiny", shape=shape, tokens_per_microbatch=128)
        yield Case("tiny", rank=4, shape=shape, tokens_per_microbatch=128)
        yield Case("tiny", straight_through=True, shape=shape, tokens_per_microbatch=128)
        return
    yield Case("0.6b")
    yield Case("0.6b", rank=16)
    yield Case("4b", rank=16, checkpointing=True)
    yield Case("0.6b", straight_through=True, checkpointing=True, shape=replace(BATCH, samples=2))
    if session.device == "cuda" and torch.cuda.get_device_properties(0).total_memory > ROOM:
        yield Case("4b", checkpointing=True)


def measure(session: Session) -> None:
    first, *others = cases(session)
    session.measure(first.name, partial(_step, session.device, first))
    session.measure("version", partial(_version, session.device, first.model))
    for case in others:
        session.measure(case.name, partial(_step, session.device, case))


class TimedClock(PhaseClock):
    """Waits for the device at both ends of a phase, so that a phase has the time of its own work."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        timing.synchronise(self._device)
        with super().phase(name):
            yield
            timing.synchronise(self._device)


class TimedRanks(Ranks):
    """One rank, which takes the time of the passes that the learner names, while `timed`."""

    def __init__(self, device: str) -> None:
        super().__init__(torch.device(device))
        self.timed = False
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str, deadline: bool = True) -> Iterator[None]:  # noqa: ARG002  # there is nobody to wait for
        if not self.timed:
            yield
            return
        timing.synchronise(self.device.type)
        begun = time.perf_counter()
        yield
        timing.synchronise(self.device.type)
        self.seconds[name] += time.perf_counter() - begun


def _staging() -> Path | None:
    """None: the system's directory for temporary files."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_ROOM
    return MEMORY if roomy else None


def _step(device: str, case: Case) -> Values:
    with tempfile.TemporaryDirectory(dir=_staging()) as directory:
        before = timing.forget_peak(device)
        ranks = TimedRanks(device)
        learner, policy = learner_of(case, ranks, Path(directory))
        precision = Precision() if case.straight_through else Precision(weights="bf16")
        groups = made_up(policy, case.shape, case.tokens_per_microbatch, precision)
        for _ in range(WARM_UP_STEPS):
            learner.step(groups, PhaseClock())
        resting = timing.forget_peak(device) - before
        clock, took, writing = PhaseClock(), [], []
        for _ in range(STEPS):
            clock.finish()
            outcome = learner.step(groups, clock)
            timing.synchronise(device)
            total, phases = clock.finish()
            took.append(total - phases["serialise"])
            writing.append(phases["serialise"])
        peak = timing.peak(device) - before
        figures = outcome.figures
        assert figures.updates == 1, f"the step was left out: {figures}"
        shares = _shares(learner, ranks, groups, device)
        waits = timing.host_waits(lambda: learner.step(groups, PhaseClock()), device)
        return {
            "step_seconds": median(took),
            "tokens_per_second": case.shape.tokens / median(took),
            "write_version_seconds": median(writing),
            **shares,
            "peak_gigabytes": peak / 1e9,
            "resting_gigabytes": resting / 1e9,
            "trained": sum(one.numel() for one in policy.masters.values()),
            "microbatches": figures.microbatches,
            "loss": figures.loss,
            "gradient_norm": figures.gradient_norm,
            "alpha": figures.alpha,
            "host_waits": waits.total(),
            "waits_at": "; ".join(f"{place} x{count}" for place, count in waits.most_common(12)),
        }


def _shares(learner: Learner, ranks: TimedRanks, groups: list[ScoredGroup], device: str) -> dict[str, float]:
    """Seconds of each phase of a step whose phases wait for the device."""
    clock = TimedClock(device)
    ranks.timed = True
    learner.step(groups, clock)
    ranks.timed = False
    total, phases = clock.finish()
    named = {
        "forward_seconds": ranks.seconds["forward of a microbatch"],
        "backward_seconds": ranks.seconds["backward of a microbatch"],
        "norm_seconds": ranks.seconds["norm of the gradient"],
    }
    step = total - phases["serialise"]
    return {
        **named,
        **{f"{name}_seconds": phases[name] for name in ("prepare", "correction", "optimizer", "probe", "other")},
        "correction_share": phases["correction"] / step,
        "overhead_share": 1.0 - (phases["forward_backward"] + phases["optimizer"]) / step,
    }


def learner_of(case: Case, ranks: Ranks, directory: Path) -> tuple[Learner, Policy]:
    """A learner of a model whose values are drawn on the device; it writes its versions below `directory`."""
    settings = TrainerSettings.model_validate(
        {
            "lora": {"rank": case.rank},
            "optimizer": {"learning_rate": LEARNING_RATE, "warmup_steps": 0},
            "objective": {"straight_through": case.straight_through},
            "compute": {"tokens_per_microbatch": case.tokens_per_microbatch},
        }
    )
    config, device = shapes.config_of(case.model), str(ranks.device)
    if case.rank:
        policy = Policy(shapes.random_model(config, device, torch.bfloat16))
        policy.model.requires_grad_(False)
        policy.adapt(adapters_of(policy.model, directory, settings.lora, seed=0), base_digest="")
    else:
        policy = Policy(shapes.random_model(config, device, torch.float32))
    if case.checkpointing:
        policy.scoring.checkpoint_activations()
    correction, run = CorrectionSettings(method="ais"), RunSettings(model=directory)
    return Learner(policy, run, settings, correction, Staging(directory), ranks), policy


def _version(device: str, model: str) -> Values:
    """Writes two versions a step apart, and what makes the later of the earlier one."""
    small = model == "tiny"
    shape = Shape(groups=2, samples=4, prompt=8, response=24) if small else Shape(8, 8, 64, 192)
    with tempfile.TemporaryDirectory(dir=_staging()) as directory:
        learner, policy = learner_of(Case(model, shape=shape), Ranks(torch.device(device)), Path(directory))
        groups = made_up(policy, shape, 16_384, Precision(weights="bf16"))
        before = learner.step(groups, PhaseClock()).snapshot
        after = learner.step(groups, PhaseClock()).snapshot
        begun = time.perf_counter()
        learner.snapshot()
        writing = time.perf_counter() - begun
        values: dict[str, float] = {"write_and_digest_seconds": writing, "megabytes": after.size / 1e6}
        for threads in THREADS:
            values |= _delta(before, after, Path(directory), threads)
        return values


def _delta(before: Snapshot, after: Snapshot, directory: Path, threads: int) -> dict[str, float]:
    encoding = applying = size = 0.0
    for old, new in zip(before.files, after.files, strict=True):
        delta, made = directory / "delta", directory / "made"
        begun = time.perf_counter()
        size += encode_delta(old.path, new.path, delta, new.digest, threads).size
        encoding += time.perf_counter() - begun
        begun = time.perf_counter()
        apply_delta(old.path, delta, made, new.size, new.digest, threads)
        applying += time.perf_counter() - begun
    return {
        f"encode_delta_seconds_{threads}_threads": encoding,
        f"apply_delta_seconds_{threads}_threads": applying,
        "delta_megabytes": size / 1e6,
    }
