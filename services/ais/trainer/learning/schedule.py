"""The learning rate of each step."""

from __future__ import annotations

import math

from ais.trainer.settings import OptimizerSettings


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """Learning rate of `step` (from 0) in a run of `steps`: linear warm-up, then the schedule."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    since = step - settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    if settings.schedule == "inverse_sqrt":
        return settings.learning_rate * math.sqrt(settings.constant_steps / max(settings.constant_steps, since))
    done = since / max(1, steps - settings.warmup_steps)
    share = 1.0 - done if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return settings.learning_rate * share


def pace(settings: OptimizerSettings, zero_variance_share: float) -> float:
    """Factor of a step's learning rate, from the share of its groups whose rewards are all equal."""
    return 1.0 - zero_variance_share if settings.pace == "signal" else 1.0
