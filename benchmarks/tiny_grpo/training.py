"""The loop: sample, score, step; now and then both policies are scored on held-out prompts."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tokenizers import Tokenizer

from ais.collector.prompts.prompts import Split, TaskSource
from ais.collector.settings import TaskSettings
from ais.collector.tasks.task import open_task
from ais.contracts.sampling import Precision, SamplingParameters
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.trainer.learning.batch import prepare
from ais.trainer.learning.schedule import learning_rate
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.settings import ComputeSettings, TrainerSettings
from ais_core.corrections import build
from benchmarks.tiny_grpo.branches import batch_loss
from benchmarks.tiny_grpo.experiment import METHODS, PRECISIONS, Experiment
from benchmarks.tiny_grpo.sampler import Sampler

GROUPS, SAMPLES = 32, 8
EVALUATE_EVERY = 20
HELD_OUT, HELD_OUT_LAST = 512, 2048
"""Held-out prompts, one sample each, of a point of the curve and of the final score."""
HELD_OUT_SEED = 1
SETTINGS = TrainerSettings(compute=ComputeSettings(tokens_per_microbatch=1 << 30))
"""The recipe is the trainer's defaults: Adam (0.9, 0.95), 3e-4 after 10 steps of warm-up, gradient norm 1."""


class Examiner:
    """Scores the policy, at one precision, on held-out prompts that are the same for every run."""

    def __init__(self, sampler: Sampler, task: TaskSource, max_new_tokens: int) -> None:
        self._sampler = sampler
        self._task = task
        self._sampling = SamplingParameters(max_new_tokens=max_new_tokens, seed=1_000_000_007)

    def score(self, policy: Policy, prompts: int) -> float:
        """Mean reward of one sample to each prompt."""
        self._sampler.serve(policy.masters, 0)
        asked = [self._task.prompt(ordinal) for ordinal in range(prompts)]
        return mean(reward for group in self._sampler.sample(asked, 1, self._sampling) for reward in group.rewards)


def run(experiment: Experiment, model: Path) -> dict[str, Any]:
    """Trains once and returns the record of the run."""
    begun = time.process_time()
    method, precision = METHODS[experiment.method], PRECISIONS[experiment.precision]
    digits = int(experiment.task.removeprefix("sort"))
    generator = torch.Generator().manual_seed(experiment.seed)
    policy = Policy.load(model, "cpu")
    architecture = read_architecture(model)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    task = open_task(TaskSettings(digits=digits), experiment.seed, Split.TRAIN)
    held_out = open_task(TaskSettings(digits=digits), HELD_OUT_SEED, Split.HELD_OUT)
    new_tokens = digits + 4

    def sampler(at: Precision) -> Sampler:
        return Sampler(architecture, tokenizer, at, positions=digits + 2 + new_tokens)

    rollouts = sampler(precision)
    examiners = {
        "p": Examiner(sampler(PRECISIONS["bf16"]), held_out, new_tokens),
        "q": Examiner(sampler(precision), held_out, new_tokens),
    }
    correction = build(method.correction)
    masters = list(policy.masters.values())
    adam = SETTINGS.optimizer
    optimizer = torch.optim.AdamW(
        masters, lr=adam.learning_rate, betas=(adam.beta1, adam.beta2), weight_decay=0.0, fused=True
    )
    seen: dict[str, list[float]] = {"alpha": [], "D": [], "ess": [], "reward": []}
    curve = []
    seconds = {"rollout": 0.0, "train": 0.0, "evaluate": 0.0}
    for step in range(experiment.steps):
        started = time.process_time()
        rollouts.serve(policy.masters, step)
        prompts = [task.prompt(step * GROUPS + index) for index in range(GROUPS)]
        sampling = SamplingParameters(max_new_tokens=new_tokens, seed=(experiment.seed + 1) * 1_000_003 + step * GROUPS)
        groups = rollouts.sample(prompts, SAMPLES, sampling)
        sampled = time.process_time()
        batch = prepare(groups, step, SETTINGS, Ranks(policy.device))
        (microbatch,) = batch.microbatches
        loss = batch_loss(
            policy, microbatch, batch.advantages[microbatch.sequences], microbatch.sequences // SAMPLES,
            method, correction, precision, generator,
        )  # fmt: skip
        torch.autograd.backward(loss.value)
        torch.nn.utils.clip_grad_norm_(masters, adam.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(adam, step, experiment.steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        trained = time.process_time()
        for name, value in (
            ("alpha", loss.alpha), ("D", loss.mean_abs_log_ratio), ("ess", loss.sequence_ess),
            ("reward", float(batch.rewards.mean())),
        ):  # fmt: skip
            seen[name].append(value)
        last = step + 1 == experiment.steps
        if last or (step + 1) % EVALUATE_EVERY == 0:
            count = HELD_OUT_LAST if last else HELD_OUT
            scores = {name: examiner.score(policy, count) for name, examiner in examiners.items()}
            recent = {name: mean(values[-EVALUATE_EVERY:]) for name, values in seen.items()}
            curve.append({"step": step + 1, **scores, **recent})
        seconds["rollout"] += sampled - started
        seconds["train"] += trained - sampled
        seconds["evaluate"] += time.process_time() - trained
    return {
        **experiment.key,
        "p": curve[-1]["p"],
        "q": curve[-1]["q"],
        **{name: mean(values) for name, values in seen.items()},
        "curve": curve,
        "cpu_seconds": seconds | {"all": time.process_time() - begun},
    }
