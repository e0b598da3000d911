"""The loop of a cell: sample with the policy of `staleness` versions ago, let the learner step, score now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import mean

from torch import Tensor

from ais.collector.exercise import Exercise, open_exercise
from ais.collector.prompts.prompts import Split
from ais.collector.settings import CollectorProcessSettings, ReplicaRoom
from ais.comparison.cell.rollouts import Draw, Rollouts
from ais.comparison.grid import Cell
from ais.comparison.records import SECONDS, STEP_FIGURES, Column
from ais.comparison.settings import BF16, FORMATS
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.rollout.engines.torch_engine.batch import ServedPolicy
from ais.rollout.engines.torch_engine.devices import chosen_device
from ais.settings import Settings
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.learning.reference import load_reference
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks, join
from ais.trainer.ranks.sharding import gathered, load_policy
from ais.trainer.settings import ProbeSettings, TrainerSettings

HELD_OUT_SEED = 1
"""Held-out prompts, and how responses to them are drawn, are the same for every cell of a task."""

Progress = Callable[[int, float], None]
"""Told of each step done: its number, and the mean reward of its batch."""


@dataclass
class Course:
    """What is seen of a cell while it is trained, column by column."""

    steps: dict[str, Column] = field(default_factory=lambda: {name: [] for name in ("step", *STEP_FIGURES, *SECONDS)})
    evaluations: dict[str, Column] = field(default_factory=lambda: {name: [] for name in ("step", "p", "q")})


async def train(cell: Cell, progress: Progress) -> Course:
    """Trains a cell in this process and thread.

    Raises UnavailableError for a model or a task that cannot be used, SamplingFailedError where the policy's log-probs
    are no longer finite.
    """
    settings, compare = cell.settings, cell.compare
    course = Course()
    async with AsyncExitStack() as stack:
        exercise = await stack.enter_async_context(open_exercise(_collector(settings, settings.run.seed), Split.TRAIN))
        held_out = await stack.enter_async_context(open_exercise(_collector(settings, HELD_OUT_SEED), Split.HELD_OUT))
        trainer = _here(settings)
        ranks = join(trainer)
        policy = load_policy(settings.run.model, trainer, ranks, settings.run.seed)
        reference = load_reference(settings.run, trainer, policy, ranks)
        learner = Learner(policy, settings.run, trainer, settings.correction, None, ranks, reference)
        examiner = _Examiner(settings, policy, ranks, held_out, course)
        batch, samples = settings.run.groups_per_batch, settings.run.samples_per_group
        newest = examiner.serve(0)
        served: deque[ServedPolicy] = deque([newest], maxlen=settings.run.max_staleness + 1)
        await examiner.score(0, newest, compare.evaluation_prompts)
        clock = PhaseClock()
        for step in range(settings.run.steps):
            begun = time.process_time()
            ordinals = range(step * batch, (step + 1) * batch)
            draw = Draw(ordinals, samples, settings.collector.sampling, settings.run.seed)
            groups = await examiner.rollouts.sample(served[0], exercise, draw)
            sampled = time.process_time()
            figures = learner.step(groups, clock).figures
            trained = time.process_time()
            newest = examiner.serve(step + 1)
            served.append(newest)
            course.steps["step"].append(step + 1)
            for name in STEP_FIGURES:
                course.steps[name].append(getattr(figures, name))
            rounding = time.process_time() - trained
            for name, seconds in zip(SECONDS, (sampled - begun + rounding, trained - sampled), strict=True):
                course.steps[name].append(seconds)
            progress(step + 1, figures.reward_mean)
            last = step + 1 == settings.run.steps
            if last or (step + 1) % compare.evaluate_every == 0:
                await examiner.score(step + 1, newest, compare.final_prompts if last else compare.evaluation_prompts)
    return course


class _Examiner:
    """Scores both policies on held-out prompts; its rollouts are also those of training."""

    def __init__(self, settings: Settings, policy: Policy, ranks: Ranks, held_out: Exercise, course: Course) -> None:
        architecture = read_architecture(settings.run.model)
        slots = settings.rollout.slots * settings.rollout.replicas
        where = (slots, settings.rollout.max_model_len, chosen_device(settings.rollout.device))
        trained = FORMATS[BF16].model_copy(update={"float32_head": settings.trainer.float32_head})
        self.rollouts = Rollouts(architecture, settings.rollout.precision, *where)
        self._bf16 = Rollouts(architecture, trained, *where)
        self._policy = policy
        self._ranks = ranks
        self._held_out = held_out
        self._sampling = settings.collector.sampling
        self._course = course

    def serve(self, version: int) -> ServedPolicy:
        return self.rollouts.serve(self._weights(), version)

    def _weights(self) -> dict[str, Tensor]:
        """What the trainer would publish."""
        return dict(gathered(self._policy, self._ranks))

    async def score(self, step: int, served: ServedPolicy, prompts: int) -> None:
        """Adds a point to the curves of both policies. `served` is the newest version, quantised."""
        full = self._bf16.serve(self._weights(), step)
        prompts = min(prompts, self._held_out.task.distinct or prompts)
        draw = Draw(range(prompts), 1, self._sampling, HELD_OUT_SEED)
        for name, rollouts, policy in (("p", self._bf16, full), ("q", self.rollouts, served)):
            groups = await rollouts.sample(policy, self._held_out, draw)
            self._course.evaluations[name].append(mean(reward for group in groups for reward in group.rewards))
        self._course.evaluations["step"].append(step)


def _collector(settings: Settings, seed: int) -> CollectorProcessSettings:
    return CollectorProcessSettings(
        run=settings.run.model_copy(update={"seed": seed}),
        collector=settings.collector,
        rollout=ReplicaRoom(max_model_len=settings.rollout.max_model_len),
    )


def _here(settings: Settings) -> TrainerSettings:
    """The trainer's settings where nobody asks for a probe."""
    return settings.trainer.model_copy(update={"probe": ProbeSettings(sequences=0)})
