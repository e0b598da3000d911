"""Measures how many quantised codes a new version changes: whether the policy that samples moves with training.

An update smaller than half the distance of two codes leaves the code as it is. When that holds for nearly all weights,
the quantised policy stands still while the trainer's goes on, and the mismatch grows without anything being wrong.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open

from ais.contracts.weights.forms import BF16, is_quantised
from ais.runtime.tasks import end_tasks
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.weights.snapshot import Snapshot
from ais_core.numerics import Format, encode_weight

SAMPLED_WEIGHTS = 1 << 18
"""Weights that are looked at, about: whole output channels, evenly over all linear layers."""
REST_SECONDS = 5.0
"""From one comparison to the next sample, at least: nobody asks more often, and a small model steps many times."""
_ANY_FORM = "e4m3"
"""Every form quantises these tensors."""

Sample = dict[str, torch.Tensor]
"""BF16 rows of the linear layers' weights, by name."""

logger = logging.getLogger(__name__)


class CodeWatch:
    """Compares each version with the one before, in a thread beside training."""

    def __init__(self, metrics: TrainerMetrics) -> None:
        self.formats: frozenset[str] = frozenset()
        """Number formats that replicas round weights to."""
        self._metrics = metrics.weights
        self._looking: asyncio.Task[None] | None = None
        self._last: tuple[int, Sample] | None = None
        self._compared = -math.inf
        """When, in seconds of a monotonic clock."""

    def offered(self, snapshot: Snapshot) -> None:
        """`snapshot` is the newest version. Left out while another one is looked at, and soon after a comparison."""
        resting = time.monotonic() - self._compared < REST_SECONDS
        if not resting and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(snapshot), name=f"codes of {snapshot.version}")

    async def close(self) -> None:
        if self._looking is not None:
            await end_tasks(self._looking)

    async def _look(self, snapshot: Snapshot) -> None:
        try:
            sample = await asyncio.to_thread(sampled, snapshot)
        except (OSError, SafetensorError) as error:
            logger.warning("the codes of version %d cannot be looked at: %s", snapshot.version, error)
            return
        before, self._last = self._last, (snapshot.version, sample)
        if before is not None and before[0] == snapshot.version - 1:
            formats = sorted({BF16, *self.formats})
            shares = await asyncio.to_thread(lambda: [changed(before[1], sample, one) for one in formats])
            self._metrics.changed.show({(one,): share for one, share in zip(formats, shares, strict=True)})
            self._compared = time.monotonic()


def changed(old: Sample, new: Sample, number_format: str) -> float:
    """Share of the codes in which two samples of the same weights differ, rounded with a scale a channel; NaN without
    weights."""
    differ, total = 0, 0
    for name, weights in new.items():
        differ += int((_codes(weights, number_format) != _codes(old[name], number_format)).sum())
        total += weights.numel()
    return differ / total if total else float("nan")


def sampled(snapshot: Snapshot) -> Sample:
    """The rows that are looked at: the same ones of every version. Raises OSError and SafetensorError."""
    linear = list(_linear(snapshot))
    every = max(1, math.ceil(sum(rows * width for _file, _name, (rows, width) in linear) / SAMPLED_WEIGHTS))
    sample = {}
    for file, name, (rows, _width) in linear:
        with safe_open(file, framework="pt") as opened:
            part = opened.get_slice(name)
            chosen = [part[row : row + 1] for row in range(0, rows, every)] if every > 1 else [part[:]]
            sample[name] = torch.cat(chosen)
    return sample


def _linear(snapshot: Snapshot) -> Iterator[tuple[Path, str, tuple[int, int]]]:
    """File, name, and rows and width of each linear layer's weight."""
    for one in snapshot.files:
        with safe_open(one.path, framework="pt") as opened:
            for name in sorted(opened.keys()):
                if is_quantised(name, _ANY_FORM):
                    rows, width = opened.get_slice(name).get_shape()
                    yield one.path, name, (rows, width)


def _codes(weights: torch.Tensor, number_format: str) -> torch.Tensor:
    """What is stored of (rows, width) BF16 weights, as whole numbers that are equal where the codes are."""
    if number_format == BF16:
        return weights.view(torch.int16)
    return encode_weight(weights, cast(Format, number_format), "channel").codes.view(torch.int8)
