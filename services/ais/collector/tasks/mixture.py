"""Draws from several sources by weight, as a pure function of seed and ordinal.

Ordinals are divided into periods: the fewest draws in which whole numbers of draws have the proportions of the weights.
Each period has exactly those numbers, in a seeded order. So the weights hold in every stretch, and the ordinals of each
source come one after another: a file is gone through once before it is gone through again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ais.collector.prompts.prompts import Prompt, TaskSource

LONGEST_PERIOD = 16_384
TOLERANCE = 2e-3
"""How far a source's share may be from its weight's, relative to that, where a shorter period does."""


class Mixture:
    """The prompts of several sources. Sources of weight 0 are never drawn from."""

    name = "mixture"

    def __init__(self, sources: Sequence[TaskSource], weights: Sequence[float], seed: int) -> None:
        """`weights` are at least 0 and one is more, each of these at least a thousandth of their sum."""
        self.sources = tuple(sources)
        counts = [source.distinct for source in sources]
        self.distinct: int | None = None if None in counts else sum(count or 0 for count in counts)
        self.too_long = sum(source.too_long for source in sources)
        self._quotas = quotas(weights)
        self._seed = seed
        self._draws = lru_cache(maxsize=8)(self._draws_of)

    def prompt(self, ordinal: int) -> Prompt:
        period, place = divmod(ordinal, sum(self._quotas))
        number, rank = self._draws(period)[place]
        return self.sources[number].prompt(period * self._quotas[number] + rank)

    def _draws_of(self, period: int) -> list[tuple[int, int]]:
        """For each ordinal of a period the source's number, and how many of its draws in the period come before."""
        order = [number for number, quota in enumerate(self._quotas) for _ in range(quota)]
        random.Random(f"{self._seed}:mixture:{period}").shuffle(order)
        drawn = [0] * len(self._quotas)
        draws = []
        for number in order:
            draws.append((number, drawn[number]))
            drawn[number] += 1
        return draws


def quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """Draws of each source in a period: the fewest whose shares are those of the weights, but for TOLERANCE.

    Where LONGEST_PERIOD draws are too few for that, those that come nearest.
    """
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    drawn = shares[shares > 0]
    periods = np.arange(1, LONGEST_PERIOD + 1)[:, None]
    counts = np.maximum(np.rint(drawn * periods), 1)
    errors = np.abs(counts / counts.sum(axis=1, keepdims=True) / drawn - 1).max(axis=1)
    good = np.flatnonzero(errors <= TOLERANCE)
    best = iter(counts[good[0] if len(good) else int(errors.argmin())].astype(int).tolist())
    return tuple(next(best) if share > 0 else 0 for share in shares)
