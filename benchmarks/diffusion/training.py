"""One training run by GRPO: quantised rollouts, estimated log-probs, a correction, Adam over float32 masters.

The recipe is the trainer's defaults (`ais.trainer.settings`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import ais_core
from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.tasks.sort import SortTask
from ais.comparison.settings import BF16, FORMATS
from ais.trainer.learning.schedule import learning_rate
from ais.trainer.settings import OptimizerSettings
from ais_core import CorrectionSettings, MixingSettings, SequenceBatch, advantages, objectives
from ais_core.diffusion import estimate, one_step_views
from ais_core.objectives import Normalizer
from benchmarks.diffusion.network import Masters, Network, Shape
from benchmarks.diffusion.sampling import Sampler, Samples

SAMPLES = 8
"""Completions to a prompt."""
OPTIMIZER = OptimizerSettings()
EXAMINED_SEED = 1_000_000_007
METHODS = {
    "none": CorrectionSettings(method="none"),
    "tis": CorrectionSettings(method="tis", level="token"),
    "ais": CorrectionSettings(method="ais", mixing=MixingSettings(evaluation="same_batch")),
}


@dataclass(frozen=True)
class Cell:
    """Everything that a run's result depends on but the code."""

    method: str
    """One of `METHODS`."""
    format: str
    """The rollouts', one of `ais.comparison.settings.FORMATS`."""
    seed: int
    start: str
    """Digest of the masters that it begins with."""
    digits: int
    unmasking_steps: int
    steps: int
    groups: int
    draws: int
    prompt_probability: float
    evaluate_every: int
    held_out: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Examiner:
    """Scores policies on held-out prompts, one completion each, the same for all cells."""

    def __init__(self, sampler: Sampler, prompts: Sequence[Prompt]) -> None:
        self._sampler = sampler
        self._prompts = prompts

    def scores(self, trained: Network, served: Network) -> tuple[float, float]:
        """Mean reward of the BF16 policy and of the one that samples."""
        p, q = (
            float(self._sampler.sample(policy, self._prompts, 1, EXAMINED_SEED).rewards.mean())
            for policy in (trained, served)
        )
        return p, q


class Run:
    """A cell while it is trained."""

    def __init__(self, cell: Cell, shape: Shape, start: Masters, sampler: Sampler) -> None:
        self._cell = cell
        self._shape = shape
        self._sampler = sampler
        self._masters = {name: weight.clone().requires_grad_() for name, weight in start.items()}
        self._optimizer = torch.optim.Adam(
            list(self._masters.values()), OPTIMIZER.learning_rate, betas=(OPTIMIZER.beta1, OPTIMIZER.beta2)
        )
        self._correction = ais_core.build(METHODS[cell.method])
        self._task = SortTask(cell.digits, cell.seed, Split.TRAIN)
        held_out = SortTask(cell.digits, 0, Split.HELD_OUT)
        self._examiner = Examiner(sampler, [held_out.prompt(ordinal) for ordinal in range(cell.held_out)])

    def train(self, tell: Callable[[str], None]) -> dict[str, Any]:
        """Trains to the end; what is recorded of it. After each evaluation `tell` is given a line for a person."""
        cell, begun = self._cell, time.process_time()
        steps: list[dict[str, Any]] = []
        paths: list[dict[str, float]] = []
        evaluations = [(0, *self._examiner.scores(*self._policies()))]
        for step in range(cell.steps):
            watched = step % cell.evaluate_every == 0 and cell.format != BF16
            steps.append(self._step(step, paths if watched else None))
            if (step + 1) % cell.evaluate_every == 0 or step + 1 == cell.steps:
                p, q = self._examiner.scores(*self._policies())
                evaluations.append((step + 1, p, q))
                tell(f"step {step + 1}: p {p:.3f}, q {q:.3f}, mean |log-ratio| {steps[-1]['mismatch']:.4f}")
        return {
            "cell": cell.as_json(),
            "evaluations": evaluations,
            "steps": {name: [one[name] for one in steps] for name in steps[0]},
            "paths": paths,
            "processor_seconds": round(time.process_time() - begun, 1),
        }

    def _policies(self) -> tuple[Network, Network]:
        served = Network.served(self._shape, self._masters, FORMATS[self._cell.format])
        return Network.trained(self._shape, self._masters), served

    def _step(self, step: int, paths: list[dict[str, float]] | None) -> dict[str, Any]:
        """One batch; what its estimates see of the paths is added to `paths`, which takes further passes."""
        cell = self._cell
        trained, served = self._policies()
        prompts = [self._task.prompt(step * cell.groups + place) for place in range(cell.groups)]
        samples = self._sampler.sample(served, prompts, SAMPLES, seed=(cell.seed + 1) * 1_000_003 + step)
        groups = torch.arange(cell.groups).repeat_interleave(SAMPLES)
        signed = advantages.grpo(samples.rewards, groups)
        places = samples.sequences.completion
        views = one_step_views(samples.sequences, self._shape.mask_token, step, cell.draws, cell.prompt_probability)
        with torch.no_grad():
            behaviour = estimate(served, views).logprobs
        current = estimate(trained, views).logprobs
        ratios = ais_core.log_ratio(current, behaviour)
        batch = SequenceBatch.padded(ratios, places)
        plan, _ = self._correction.plan(self._correction.measure(batch), None)
        weights = self._correction.weights(batch, None, plan)[places]
        if paths is not None:
            paths.append({"step": step, **self._seen(trained, samples, ratios)})
        if plan.trusted:
            self._update(step, current[places], signed.repeat_interleave(samples.path.shape[1]), weights, places)
        assert plan.diagnostics is not None
        return {
            "reward": float(samples.rewards.mean()),
            "mismatch": plan.diagnostics.mean_abs_log_ratio,
            "alpha": plan.alpha,
            "weight": float(weights.mean()),
            "trusted": plan.trusted,
        }

    def _update(self, step: int, current: Tensor, signed: Tensor, weights: Tensor, places: Tensor) -> None:
        losses = objectives.clipped(current, current.detach(), signed, weights)
        normaliser = Normalizer(tokens=losses.numel(), sequences=len(places))
        self._optimizer.zero_grad()
        objectives.aggregate(losses, places.sum(1), "token_mean", normaliser).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self._masters.values()), OPTIMIZER.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(OPTIMIZER, step, self._cell.steps)
        self._optimizer.step()

    def _seen(self, trained: Network, samples: Samples, ratios: Tensor) -> dict[str, float]:
        """Log-ratios of whole sequences: those of the paths, which are exact, and what the estimates see of them."""
        by_token = self._sampler.path_of(trained, samples) - samples.path
        exact, estimated = by_token.double().sum(1), ratios.double().sum(1)
        return {
            "mismatch": float(by_token.abs().mean()),
            "correlation": float(torch.corrcoef(torch.stack((exact, estimated)))[0, 1]),
            "deviation": float(exact.std()),
            "estimated_deviation": float(estimated.std()),
            "ratio": float(exact.exp().mean()),
            "estimated_ratio": float(estimated.exp().mean()),
        }
