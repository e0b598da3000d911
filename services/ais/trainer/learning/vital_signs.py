"""Notices that a run has stopped learning, and says what it looks like and what to do. Pure: figures in, warnings out.

A sign is a condition on the figures of a batch, or on their means over the last `WINDOW` batches. It is told when it
has held for its patience, and again at ten and a hundred times that, so that a run that stays dead fills no log.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ais.trainer.warning_log import Warned
from ais_core.plan import CONCERNS

WINDOW = 20
"""Batches whose means are compared with those of other batches."""
PATIENCE = 10
"""Batches in a row of which one would mean little."""
TRUNCATED = 0.9
"""Share of truncated responses at which a batch counts as truncated."""
LOST = 1 / 2
"""Share of what the reward had gained whose loss is a collapse, if it is large as well:"""
LARGE = 2 / 3
"""a fall by this share of the rewards' standard deviation within a batch."""
COLLAPSED_ENTROPY = 0.05
"""Share of the first window's entropy below which entropy counts as collapsed."""


@dataclass(frozen=True)
class Vitals:
    """What is looked at of one batch; its names are those of `StepFigures`. NaN: not measured."""

    step: int
    reward_mean: float
    reward_std: float
    zero_variance_share: float
    truncated_share: float
    gradient_norm: float
    entropy: float
    updates: int
    concerns: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Vitals:
        """From a step's record. Older records lack what was not measured then."""

        def number(name: str) -> float:
            value = record.get(name)
            return math.nan if value is None else float(value)

        return cls(
            step=int(record["step"]),
            reward_mean=number("reward_mean"),
            reward_std=number("reward_std"),
            zero_variance_share=number("zero_variance_share"),
            truncated_share=number("truncated_share"),
            gradient_norm=number("gradient_norm"),
            entropy=number("entropy"),
            updates=int(record.get("updates", 0)),
            concerns=tuple(record.get("concerns", ())),
        )


@dataclass(frozen=True)
class Window:
    """Means over consecutive batches."""

    last_step: int
    reward: float
    reward_std: float
    """How much the rewards of single responses differ within a batch."""
    entropy: float

    @classmethod
    def over(cls, batches: Sequence[Vitals]) -> Window:
        def mean(values: list[float]) -> float:
            return sum(values) / len(values)

        return cls(
            batches[-1].step,
            mean([one.reward_mean for one in batches]),
            mean([one.reward_std for one in batches]),
            mean([one.entropy for one in batches]),
        )


class VitalSigns:
    """The signs of one run."""

    def __init__(self) -> None:
        self._recent: deque[Vitals] = deque(maxlen=WINDOW)
        self._first: Window | None = None
        self._best: Window | None = None
        """The window with the highest mean reward so far."""
        self._signs = (
            _Sign("rewards_equal", PATIENCE, self._rewards_equal),
            _Sign("responses_truncated", PATIENCE, self._responses_truncated),
            _Sign("gradient_zero", PATIENCE, self._gradient_zero),
            _Sign("uncorrected", PATIENCE, self._uncorrected),
            _Sign("rejected", PATIENCE, self._rejected),
            _Sign("reward_collapsed", 1, self._reward_collapsed),
            _Sign("entropy_collapsed", 1, self._entropy_collapsed),
        )

    def add(self, vitals: Vitals) -> list[Warned]:
        """Takes in the next batch. Returns what is to be told now, mostly nothing."""
        self._recent.append(vitals)
        if len(self._recent) == WINDOW:
            window = Window.over(self._recent)
            self._first = self._first or window
            if self._best is None or window.reward > self._best.reward:
                self._best = window
        return [warned for sign in self._signs if (warned := sign.look()) is not None]

    def _rewards_equal(self) -> str | None:
        last = self._recent[-1]
        if last.zero_variance_share < 1.0 or math.isnan(last.zero_variance_share):
            return None
        return (
            f"in no group do the rewards differ (their mean is {last.reward_mean:.3g}): nothing is learned. All low: "
            "too hard, or the verifier does not find the answer (see samples.jsonl). All high: solved. Try more "
            "run.samples_per_group, a higher collector.sampling.temperature, or other prompts"
        )

    def _responses_truncated(self) -> str | None:
        last = self._recent[-1]
        if not last.truncated_share >= TRUNCATED:
            return None
        return (
            f"{last.truncated_share:.0%} of the responses are cut off before they end. Raise "
            "collector.sampling.max_new_tokens; if samples.jsonl shows complete answers that go on, the policy never "
            "writes the tokenizer's end token"
        )

    def _gradient_zero(self) -> str | None:
        last = self._recent[-1]
        if last.gradient_norm != 0.0 or last.zero_variance_share == 1.0:
            return None
        return (
            "rewards differ and the gradient is exactly 0: every token is masked, clipped or weighted with 0. Look at "
            "ess_ratio_applied and log_ratio_abs_mean in steps.jsonl, and at the limits in [correction]"
        )

    def _uncorrected(self) -> str | None:
        reasons = [one for one in ("exponent_limit", "uncorrected") if one in self._recent[-1].concerns]
        if not reasons:
            return None
        return (
            f"{CONCERNS[reasons[0]]}. Lower the mismatch (rollout.precision), or set a correction.level below "
            "sequence; see weighted_share in steps.jsonl"
        )

    def _rejected(self) -> str | None:
        # A batch over the mismatch limit is not trained, and has a warning of its own.
        concerns = self._recent[-1].concerns
        if "rejected" not in concerns or "mismatch_limit" in concerns:
            return None
        return (
            f"{CONCERNS['rejected']}. Widen the bounds in [correction] or of correction.rejections, lower the "
            "mismatch (rollout.precision), or correct by weights alone, as ais does"
        )

    def _reward_collapsed(self) -> str | None:
        if len(self._recent) < WINDOW or self._first is None or self._best is None:
            return None
        now, best = Window.over(self._recent), self._best
        # A fall loses half of what was learned, and is not small beside the differences of single responses.
        spread = max(best.reward_std, now.reward_std)
        if not best.reward - now.reward > max(LOST * (best.reward - self._first.reward), LARGE * spread):
            return None
        return (
            f"the reward has collapsed: {best.reward:.3g} at step {best.last_step}, {now.reward:.3g} now (means over "
            f"{WINDOW} batches). It seldom comes back: stop, and start another run from a checkpoint before the fall "
            "(run.model) with a lower trainer.optimizer.learning_rate or a trainer.optimizer.schedule that falls"
        )

    def _entropy_collapsed(self) -> str | None:
        if len(self._recent) < WINDOW or self._first is None:
            return None
        now, first = Window.over(self._recent), self._first
        learned = now.reward - first.reward > 0.5 * first.reward_std
        if learned or not now.entropy < COLLAPSED_ENTROPY * first.entropy:
            return None
        return (
            f"the policy has become deterministic without having learned: entropy {first.entropy:.3g} at first, "
            f"{now.entropy:.3g} nats now, reward {first.reward:.3g} and {now.reward:.3g}. Start again from an earlier "
            "checkpoint (run.model) with a lower trainer.optimizer.learning_rate or a larger "
            "trainer.objective.entropy_coefficient with trainer.optimizer.pace = 'constant'"
        )


class _Sign:
    """A condition, and how long it has held."""

    def __init__(self, kind: str, patience: int, condition: Callable[[], str | None]) -> None:
        self._kind = kind
        self._condition = condition
        self._patience = patience
        self._told_at = patience
        self._held = 0

    def look(self) -> Warned | None:
        message = self._condition()
        if message is None:
            self._held, self._told_at = 0, self._patience
            return None
        self._held += 1
        if self._held < self._told_at:
            return None
        self._told_at *= 10
        return Warned(self._kind, f"for {self._held} batches {message}" if self._held > 1 else message)
