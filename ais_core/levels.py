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
from dataclasses import dataclass

import torch
from torch import Tensor

from ais_core.ratios import Chunk, exponential
from ais_core.settings import CorrectionSettings

RUNGS = 16
"""Blocks of 1, 2, 4, ... 2^14 tokens, then the whole sequence."""

WHOLE = RUNGS - 1
"""The rung of the whole sequence."""


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Log-weights of the parts of a chunk that share one weight each."""

    raw: Tensor
    """(units,) log-weight, nothing truncated."""
    truncated: Tensor
    """(units,) log-weight with what truncation the settings ask for, at most log cap."""
    counts: Tensor | None
    """(units,) tokens of each, in order; None when every token is a unit."""

    def spread(self, per_unit: Tensor, tokens: int) -> Tensor:
        """Values of the units, repeated over their tokens."""
        if self.counts is None:
            return per_unit
        return per_unit.repeat_interleave(self.counts, output_size=tokens)


class Levels:
    """The units of one chunk at any level. Cumulative sums are made once and shared by the levels asked for."""

    def __init__(self, chunk: Chunk, settings: CorrectionSettings) -> None:
        self._chunk = chunk
        self._settings = settings
        self._cap = math.log(settings.cap)
        self._raw = chunk.cumulative(chunk.log_ratio)
        self._truncated = self._raw
        if settings.tokens_truncated:
            self._truncated = chunk.cumulative(chunk.log_ratio.clamp(max=self._cap))
        self._ends = chunk.ends
        self._starts = self._ends - chunk.lengths
        self._longest = int(chunk.lengths.max()) if chunk.lengths.numel() else 0

    def sequence_log_ratio(self) -> Tensor:
        """(sequences,) float64 sum of the log-ratios, nothing truncated."""
        return self._raw[self._ends] - self._raw[self._starts]

    def fixed(self) -> Units:
        """The units at the settings' level, which is not `adaptive`."""
        match self._settings.weight_level:
            case "token":
                return self.rung(0)
            case "prefix":
                starts = self._chunk.spread(self._starts)
                return self._units(self._raw[1:] - self._raw[starts], self._truncated[1:] - self._truncated[starts])
            case "tempered":
                return self._sequences(self._settings.temper)
            case "geometric":
                return self._sequences(1.0 / self._chunk.lengths.clamp(min=1))
            case _:
                return self.rung(WHOLE)

    def rung(self, rung: int) -> Units:
        """The units of blocks of 2^rung tokens."""
        if rung == 0:
            return self._units(self._chunk.log_ratio, self._chunk.log_ratio)
        if rung >= self.highest:
            return self._sequences(1.0)
        width = 1 << rung
        blocks = (self._chunk.lengths + (width - 1)) >> rung
        total = int(blocks.sum())
        first = torch.arange(total, device=blocks.device) << rung
        # The block's number inside its sequence is its number in the chunk less those of the sequences before.
        shift = self._starts - ((blocks.cumsum(0) - blocks) << rung)
        begin = first + shift.repeat_interleave(blocks, output_size=total)
        end = torch.minimum(begin + width, self._ends.repeat_interleave(blocks, output_size=total))
        return self._units(
            self._raw[end] - self._raw[begin], self._truncated[end] - self._truncated[begin], end - begin
        )

    @property
    def highest(self) -> int:
        """The lowest rung whose blocks hold every whole sequence of the chunk: above it nothing changes."""
        return min(max(self._longest - 1, 0).bit_length(), WHOLE)

    def between(self, position: float) -> Tensor:
        """(tokens,) float32 truncated weights at a real-valued rung: the two rungs around it, mixed linearly."""
        lower = min(int(position), WHOLE)
        share = position - lower
        tokens = self._chunk.log_ratio.numel()
        low = self.rung(lower)
        weights = low.spread(exponential(low.truncated).float(), tokens)
        if share > 0.0 and lower < self.highest:
            high = self.rung(lower + 1)
            weights = weights.lerp(high.spread(exponential(high.truncated).float(), tokens), share)
        return weights

    def _sequences(self, power: float | Tensor) -> Units:
        raw = self.sequence_log_ratio()
        truncated = self._truncated[self._ends] - self._truncated[self._starts]
        return self._units(raw * power, truncated * power, self._chunk.lengths)

    def _units(self, raw: Tensor, truncated: Tensor, counts: Tensor | None = None) -> Units:
        return Units(raw, truncated.clamp(max=self._cap), counts)
