"""Prompt tokens that replicas have to compute, by who gets which turn. Pure.

A replica that has sampled a turn of an episode has that episode's tokens up to there in its cache, as long as the
weights stay; what follows is all that it computes. A prompt is the same for all episodes of a group.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from benchmarks.agents.episodes import Shape


@dataclass(frozen=True)
class Prefill:
    """Tokens that are computed before the policy's turns."""

    by_group: int
    """All turns of a group go to one replica, as the collector has it."""
    at_random: int
    """Each turn goes to any replica, and those cache prefixes too."""
    uncached: int
    """No replica caches anything."""

    @property
    def saved(self) -> float:
        """Share of what random dispatch computes that the collector's saves."""
        return 1.0 - self.by_group / self.at_random


def prefill(shape: Shape, replicas: int, groups: int, samples: int) -> Prefill:
    """What so many groups of episodes take; caches never run full."""
    drawn = random.Random(f"prefill:{replicas}")
    by_group = at_random = uncached = 0
    turn = shape.told + shape.answer
    for _ in range(groups):
        has_prompt = [False] * replicas
        for sample in range(samples):
            cached = [0] * replicas
            for number in range(shape.turns):
                history = shape.prompt + number * turn
                uncached += history
                by_group += (0 if sample else shape.prompt) if number == 0 else shape.told
                replica = drawn.randrange(replicas)
                known = max(cached[replica], shape.prompt if has_prompt[replica] else 0)
                at_random += history - known
                cached[replica], has_prompt[replica] = history + shape.answer, True
    return Prefill(by_group, at_random, uncached)
