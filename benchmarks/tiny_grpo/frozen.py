"""Gradients at a frozen policy: those of quantised rollouts, by method, against that of BF16 rollouts."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from ais.collector.prompts.prompts import Split
from ais.collector.settings import TaskSettings
from ais.collector.tasks.task import open_task
from ais.contracts.sampling import SamplingParameters
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.trainer.learning.batch import Batch, prepare
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais_core import objectives
from ais_core.centring import centred_scores
from ais_core.corrections import build
from ais_core.objectives import Normalizer
from ais_core.ratios import SequenceBatch, log_ratio
from ais_core.settings import CorrectionSettings
from benchmarks.tiny_grpo.dissection import imitated
from benchmarks.tiny_grpo.experiment import PRECISIONS
from benchmarks.tiny_grpo.sampler import Sampler
from benchmarks.tiny_grpo.training import GROUPS, SAMPLES, SETTINGS


class Frozen:
    """A policy whose weights stay, and batches of prompts that no training run has seen."""

    def __init__(self, model: Path, weights: Path | None, task: str, compute: torch.dtype) -> None:
        """`weights` are masters kept by a run, or None for the model's own."""
        self._digits = int(task.removeprefix("sort"))
        self._policy = Policy.load(model, "cpu")
        self._policy.scoring.compute_dtype = compute
        if weights is not None:
            kept = load_file(weights)
            with torch.no_grad():
                for name, master in self._policy.masters.items():
                    master.copy_(kept[name])
        self._architecture = read_architecture(model)
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._task = open_task(TaskSettings(digits=self._digits), 1_000, Split.TRAIN)

    def batches(self, precision: str, number: int) -> list[Batch]:
        """`number` batches of the size that training has, sampled at a precision."""
        new = self._digits + 4
        sampler = Sampler(self._architecture, self._tokenizer, PRECISIONS[precision], positions=self._digits + 2 + new)
        sampler.serve(self._policy.masters, 0)
        found = []
        for index in range(number):
            prompts = [self._task.prompt(index * GROUPS + place) for place in range(GROUPS)]
            sampling = SamplingParameters(max_new_tokens=new, seed=77_000_003 + index * GROUPS)
            groups = sampler.sample(prompts, SAMPLES, sampling)
            found.append(prepare(groups, 0, SETTINGS, Ranks(self._policy.device)))
        return found

    def gradients(
        self, batch: Batch, methods: dict[str, CorrectionSettings], centred: bool = False
    ) -> dict[str, torch.Tensor]:
        """The gradient of a batch by each method, flat, from one forward pass; with `centred` that of centred scores
        without a weight as well, which takes a second one."""
        (microbatch,) = batch.microbatches
        distribution = self._policy.distribution(microbatch)
        chosen = distribution.gather(1, microbatch.targets[:, None]).squeeze(1)
        logs = log_ratio(chosen, microbatch.behaviour_logprobs)
        advantages = batch.advantages[microbatch.sequences]
        packed = SequenceBatch.packed(logs, microbatch.lengths)
        parts: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, settings in methods.items():
            correction = build(settings)
            plan, _ = correction.plan(correction.measure(packed, advantages), None)
            parts[name] = (chosen, correction.weights(packed, advantages, plan))
        if centred:
            scores = centred_scores(distribution, imitated(self._policy, microbatch), microbatch.targets)
            parts["centred"] = (scores, torch.ones_like(logs))
        normaliser = Normalizer(tokens=logs.numel(), sequences=len(advantages))
        found = {}
        for name, (scores, weights) in parts.items():
            losses = objectives.policy_gradient(scores, advantages[microbatch.rows], weights)
            loss = objectives.aggregate(losses, microbatch.lengths, "token_mean", normaliser)
            gradient = torch.autograd.grad(loss, list(self._policy.masters.values()), retain_graph=True)
            found[name] = torch.cat([part.reshape(-1) for part in gradient])
        return found


def compare(
    frozen: Frozen, precision: str, methods: dict[str, CorrectionSettings], reference: int, number: int, centred: bool
) -> dict[str, Any]:
    """Each method's gradient at `precision` against the mean of `reference` batches of BF16 rollouts.

    By method: cosine of the mean gradient with the reference, its length relative to it, and the mean cosine of single
    batches with each other. Both rewards come from the same batches.
    """
    plain = {"none": CorrectionSettings(method="none")}
    own = frozen.batches("bf16", reference)
    truths = torch.stack([frozen.gradients(batch, plain)["none"] for batch in own])
    truth = truths.mean(0)
    sampled = frozen.batches(precision, number)
    gradients = [frozen.gradients(batch, methods, centred) for batch in sampled]
    found: dict[str, Any] = {
        "p": mean(float(batch.rewards.mean()) for batch in own),
        "q": mean(float(batch.rewards.mean()) for batch in sampled),
        "halves": _cosine(truths[0::2].mean(0), truths[1::2].mean(0)),
        "bf16_batches": _agreement(truths),
    }
    for name in gradients[0]:
        stacked = torch.stack([one[name] for one in gradients])
        found[name] = {
            "cosine": _cosine(stacked.mean(0), truth),
            "length": float(stacked.mean(0).norm() / truth.norm()),
            "batches": _agreement(stacked),
        }
    return found


def _cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(first @ second / (first.norm() * second.norm()).clamp(min=1e-12))


def _agreement(gradients: torch.Tensor) -> float:
    """Mean cosine of different rows with each other."""
    units = gradients / gradients.norm(dim=1, keepdim=True).clamp(min=1e-12)
    number = len(units)
    return float((units.sum(0).square().sum() - number) / (number * (number - 1)))
