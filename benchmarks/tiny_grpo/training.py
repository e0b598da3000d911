"""What every study of the demo's scale has in common: sizes, recipe, and how a policy is scored."""

from __future__ import annotations

from statistics import mean

from ais.collector.prompts.prompts import TaskSource
from ais.contracts.sampling import SamplingParameters
from ais.trainer.policy.policy import Policy
from ais.trainer.settings import ComputeSettings, TrainerSettings
from benchmarks.tiny_grpo.sampler import Sampler

GROUPS, SAMPLES = 32, 8
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
