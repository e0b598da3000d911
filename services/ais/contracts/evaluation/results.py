"""What an evaluation of one policy came to, by source of the prompts. Validated wherever it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ais.contracts.limits import HIGHEST_VERSION, LONGEST_NAME
from ais.contracts.reward_components import MOST_COMPONENTS

Version = Annotated[int, Field(ge=0, lt=HIGHEST_VERSION)]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class Estimate(BaseModel):
    """A mean over prompts, with half the width of its 95% interval: 1.96 standard errors of the mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: float
    interval: float = Field(ge=0)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.interval:.3f}"


class SourceScore(BaseModel):
    """Scores on the prompts of one source."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str = Field(min_length=1, max_length=200)
    prompts: int = Field(ge=1)
    """Prompts that were answered and judged."""
    unanswered: int = Field(ge=0)
    """Prompts that came to nothing: no replica could answer, or a response could not be judged."""
    samples: int = Field(ge=1)
    """Responses to each."""
    reward: Estimate
    """Mean reward."""
    passed: Mapping[int, Estimate]
    """pass@k by k: the chance that one of k responses passes, estimated without bias from all samples."""
    components: Annotated[Mapping[Name, Estimate], Field(max_length=MOST_COMPONENTS)] = {}
    """Mean score of each named component of the reward, over the prompts whose responses have it."""
    response_length_mean: float = Field(ge=0)
    """In tokens."""
    truncated_share: float = Field(ge=0, le=1)
    """Responses that max_new_tokens cut off."""

    def value(self, metric: str) -> float | None:
        """The figure called reward_mean or pass@k; None where there is none."""
        if metric == "reward_mean":
            return self.reward.mean
        found = self.passed.get(int(metric.removeprefix("pass@")))
        return None if found is None else found.mean


class EvaluationResult(BaseModel):
    """One evaluation of all sources."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: Version
    """Steps after which it was due."""
    first_version: Version
    """The oldest policy version that sampled a token of it ..."""
    last_version: Version
    """... and the newest. Replicas take new versions while it goes on."""
    precision: str = Field(max_length=200)
    """In which the replicas sampled."""
    time: float
    """Unix time at its end, seconds."""
    seconds: float = Field(ge=0)
    """How long it took."""
    sources: tuple[SourceScore, ...] = Field(min_length=1)

    def value(self, metric: str) -> float:
        """The figure that EvaluationSettings.metric names; NaN where there is none."""
        source, _, name = metric.rpartition("/")
        values = [score.value(name) for score in self.sources if score.source == source or not source]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else math.nan
