"""Over which tokens a weight multiplies ratios.

With token log-ratios l_1..l_n of a sequence, the weight of token t is the exponential of

    token      l_t                            corrects the action, given a state sampled by behaviour
    prefix     l_1 + ... + l_t                corrects the state as well (per-decision importance sampling)
    sequence   l_1 + ... + l_n                the exact weight for a reward of the whole sequence
    tempered   beta * (l_1 + ... + l_n)
    geometric  (l_1 + ... + l_n) / n          the length-normalised ratio of GSPO
    block k    the sum over t's own block of 2^k tokens

Blocks are rungs of a ladder from `token` (rung 0) to `sequence` (the last). The mean of a block's weight under
behaviour is exactly 1 at every rung, because ratios multiply along the chain of conditional probabilities; a block
weight gives the exact gradient of the reward of a policy that is proximal inside the block and behaviour elsewhere. A
longer block has less bias and more variance. `adaptive` stands between two rungs: see `ais_core.mixing`.

With `truncate_tokens` each l_t is min(l_t, log cap) before it is summed; every weight is truncated at the cap at the
end.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ais_core.ratios import Chunk, cumulative, exponential
from ais_core.settings import CorrectionSettings

RUNGS = 16
"""Blocks of 1, 2, 4, ... 2^14 tokens, then the whole sequence."""

WHOLE = RUNGS - 1
"""The rung of the whole sequence."""


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Log-weights of the parts of a chunk that share one weight each. Sequences without tokens have no part."""

    raw: Tensor
    """(units,) log-weight, nothing truncated."""
    truncated: Tensor
    """(units,) log-weight with what truncation the settings ask for, save that at the cap. It is `raw` itself where no
    token is truncated."""
    width: int = 1
    """Tokens of a unit, but for the last unit of each sequence."""
    last: Tensor | None = None
    """(sequences,) the last unit of each; None when every token is a unit."""
    shortfall: Tensor | None = None
    """(sequences,) by how many tokens the last unit falls short of `width`."""

    def totals(self, values: Tensor) -> Tensor:
        """(rows,) sums over tokens of values (rows, units) per unit."""
        if self.last is None or self.shortfall is None:
            return values.sum(1)
        return values.sum(1) * self.width - values[:, self.last] @ self.shortfall.to(values.dtype)

    def spread(self, values: Tensor, tokens: int) -> Tensor:
        """Values (units,) repeated over the tokens of each unit."""
        if self.last is None or self.shortfall is None:
            return values
        counts = torch.full_like(values, self.width, dtype=torch.int64)
        counts[self.last] -= self.shortfall
        return values.repeat_interleave(counts, output_size=tokens)


class Levels:
    """The units of one chunk at any level."""

    def __init__(self, chunk: Chunk, settings: CorrectionSettings) -> None:
        self._settings = settings
        self._logs = chunk.log_ratio
        self._lengths = chunk.lengths[chunk.lengths > 0]
        self._ends = self._lengths.cumsum(0)
        self._starts = self._ends - self._lengths
        self._longest = int(self._lengths.max()) if self._lengths.numel() else 0
        self._truncated_logs = self._logs
        cap = math.log(settings.cap)
        if settings.tokens_truncated and self._longest and float(self._logs.max()) > cap:
            self._truncated_logs = self._logs.clamp(max=cap)

    @cached_property
    def _raw(self) -> Tensor:
        return cumulative(self._logs)

    @cached_property
    def _truncated(self) -> Tensor:
        return self._raw if self._truncated_logs is self._logs else cumulative(self._truncated_logs)

    def fixed(self) -> Units:
        """The units at the settings' level, which is not `adaptive`."""
        match self._settings.weight_level:
            case "token":
                return self.rung(0)
            case "prefix":
                starts = self._starts.repeat_interleave(self._lengths, output_size=self._logs.numel())
                raw = self._raw[1:] - self._raw[starts]
                return Units(raw, raw if self._whole_raw else self._truncated[1:] - self._truncated[starts])
            case "tempered":
                return self._sequences(self._settings.temper)
            case "geometric":
                return self._sequences(1.0 / self._lengths)
            case _:
                return self._sequences(1.0)

    def ladder(self) -> Iterator[Units]:
        """The units of rung 0, 1, ... up to the first that holds every sequence whole.

        Each rung adds neighbours of the rung below, so the whole ladder costs about two passes over the tokens.
        """
        raw, truncated = self._logs, self._truncated_logs
        blocks = self._lengths
        yield Units(raw, truncated)
        for rung in range(1, self.highest + 1):
            together = raw is truncated
            raw = _add_neighbours(raw, blocks)
            truncated = raw if together else _add_neighbours(truncated, blocks)
            blocks = (blocks + 1) >> 1
            yield Units(raw, truncated, 1 << rung, blocks.cumsum(0) - 1, (blocks << rung) - self._lengths)

    def rung(self, rung: int) -> Units:
        """The units of blocks of 2^rung tokens."""
        if rung == 0:
            return Units(self._logs, self._truncated_logs)
        if rung >= self.highest:
            return self._sequences(1.0)
        width = 1 << rung
        blocks = (self._lengths + (width - 1)) >> rung
        through = blocks.cumsum(0)
        total = int(through[-1])
        # The block's number inside its sequence is its number in the chunk less those of the sequences before.
        shift = self._starts - ((through - blocks) << rung)
        begin = (torch.arange(total, device=blocks.device) << rung) + shift.repeat_interleave(blocks, output_size=total)
        end = begin + width
        end[through - 1] = self._ends
        raw = self._raw[end] - self._raw[begin]
        truncated = raw if self._whole_raw else self._truncated[end] - self._truncated[begin]
        return Units(raw, truncated, width, through - 1, (blocks << rung) - self._lengths)

    @property
    def highest(self) -> int:
        """The lowest rung whose blocks hold every whole sequence of the chunk: above it nothing changes."""
        return min(max(self._longest - 1, 0).bit_length(), WHOLE)

    def between(self, position: float) -> Tensor:
        """(tokens,) float32 truncated weights at a real-valued rung: the two rungs around it, mixed linearly."""
        lower = min(int(position), WHOLE)
        share = position - lower
        weights = self.weights(self.rung(lower))
        if share > 0.0 and lower < self.highest:
            weights.lerp_(self.weights(self.rung(lower + 1)), share)
        return weights

    def weights(self, units: Units) -> Tensor:
        """(tokens,) float32 truncated weights, new memory."""
        per_unit = exponential(units.truncated).float().clamp_(max=self._settings.cap)
        return units.spread(per_unit, self._logs.numel())

    @property
    def _whole_raw(self) -> bool:
        return self._truncated_logs is self._logs

    def _sequences(self, power: float | Tensor) -> Units:
        raw = (self._raw[self._ends] - self._raw[self._starts]) * power
        truncated = raw
        if not self._whole_raw:
            truncated = (self._truncated[self._ends] - self._truncated[self._starts]) * power
        last = torch.arange(raw.numel(), device=raw.device)
        return Units(raw, truncated, self._longest, last, self._longest - self._lengths)


def _add_neighbours(values: Tensor, blocks: Tensor) -> Tensor:
    """Sums of the first and second, third and fourth, ... value of each sequence, and its last one alone if odd.

    Args:
        values: (blocks.sum(),) of the sequences one after another.
        blocks: (sequences,) how many values each has.
    """
    odd = blocks & 1
    missing = int(odd.sum())
    if missing:
        shift = (odd.cumsum(0) - odd).repeat_interleave(blocks, output_size=values.numel())
        padded = values.new_zeros(values.numel() + missing)
        padded[shift.add_(torch.arange(values.numel(), device=values.device))] = values
        values = padded
    return values[0::2] + values[1::2]
