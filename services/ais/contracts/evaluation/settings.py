"""Settings of evaluation while training, which collector and trainer must agree on: section [evaluation]."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from ais.runtime.settings import MOST, Count, CountOrNone, Section


class EvaluationSettings(Section):
    """What is asked of the policy while it is trained: prompts that training never draws (docs/evaluation.md)."""

    every_steps: CountOrNone = 0
    """Evaluate at version 0 and at each multiple of this many steps, beside training; 0: not while training. A
    checkpoint is written at each."""
    prompts: Count = 64
    """Held-out prompts of each source, or all that there are."""
    samples: int = Field(default=1, ge=1, le=1024)
    """Responses to each prompt; with n of them there is a pass@k for k = 1, 2, 4, ... up to n."""
    temperature: float | None = Field(default=None, ge=0.01, le=100.0)
    """Temperature of these responses; None: as in training."""
    pass_reward: float = 1.0
    """A response has passed with at least this reward."""
    slot_share: float = Field(default=0.25, gt=0.0, le=1.0)
    """Share of each replica's slots that evaluation may have while training goes on, one prompt's at least."""
    metric: str = Field(default="reward_mean", pattern=r"^(.{1,128}/)?(reward_mean|pass@[1-9]\d{0,3})$")
    """What makes a checkpoint the best: reward_mean or pass@k, the mean over the sources, or SOURCE/reward_mean. The
    best one stays, as checkpoints/best."""
    patience: int = Field(default=0, ge=0, le=MOST)
    """End the run after this many evaluations in a row that were not better than the best; 0: never."""

    @model_validator(mode="after")
    def _metric_is_measured(self) -> Self:
        name = self.metric.rpartition("/")[2]
        known = [f"pass@{k}" for k in ks_of(self.samples)]
        if name != "reward_mean" and name not in known:
            raise ValueError(
                f"evaluation.metric = {self.metric!r} is not measured with evaluation.samples = {self.samples}: "
                f"expected reward_mean, {' or '.join(known)}"
            )
        return self

    def is_due(self, step: int) -> bool:
        """Whether the policy after `step` steps is evaluated."""
        return self.every_steps > 0 and step % self.every_steps == 0


def ks_of(samples: int) -> list[int]:
    """The k of pass@k that are measured with so many responses: 1, 2, 4, ... and `samples` itself."""
    return sorted({1 << power for power in range(samples.bit_length())} | {samples})
