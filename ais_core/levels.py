"""Chooses the tokens whose ratios a weight multiplies.

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

With `truncate_tokens` the sums are over min(l_t, log cap). Every weight is truncated at the cap at the end.
"""

import math
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
    """(units,) log-weight with token ratios truncated as the settings ask, before the weight itself is truncated. It is
    `raw` itself where no token is truncated."""
    lengths: Tensor | int
    """(units,) int64, how many tokens the sequence of each unit has, or one number for all."""
    sizes: Tensor | None = None
    """(units,) int64, tokens of each; None when every token is a unit."""
    power: Tensor | float = 1.0
    """(units,) or one number for all: by what power a token's ratio enters the weight of its unit."""

    def spread(self, values: Tensor, tokens: int) -> Tensor:
        """Values (units,) repeated over the tokens of each unit."""
        return values if self.sizes is None else values.repeat_interleave(self.sizes, output_size=tokens)


class Levels:
    """The units of one chunk at any level."""

    def __init__(self, chunk: Chunk, settings: CorrectionSettings) -> None:
        self._settings = settings
        self._chunk = chunk
        self._logs = chunk.log_ratio
        cap = math.log(settings.cap)
        self._truncates = settings.tokens_truncated and chunk.largest > cap
        self._truncated_logs = self._logs.clamp(max=cap) if self._truncates else self._logs

    @cached_property
    def _running_truncated(self) -> Tensor:
        return cumulative(self._truncated_logs) if self._truncates else self._chunk.running

    def fixed(self) -> Units:
        """The units at the settings' level, which is not `adaptive`."""
        match self._settings.weight_level:
            case "token":
                return self.tokens()
            case "prefix":
                starts = self._chunk.spread(self._chunk.starts)
                raw = self._chunk.running[1:] - self._chunk.running[starts]
                if not self._truncates:
                    return Units(raw, raw, self._token_lengths)
                truncated = self._running_truncated[1:] - self._running_truncated[starts]
                return Units(raw, truncated, self._token_lengths)
            case "tempered":
                return self._sequences(self._settings.temper)
            case "geometric":
                return self._sequences(1.0 / self._chunk.occupied)
            case _:
                return self._sequences(1.0)

    def tokens(self) -> Units:
        """The units of rung 0: every token is one."""
        return Units(self._logs, self._truncated_logs, self._token_lengths)

    @cached_property
    def _token_lengths(self) -> Tensor | int:
        chunk = self._chunk
        return max(chunk.sizes, default=0) if chunk.uniform else chunk.spread(chunk.occupied)

    def rung(self, rung: int) -> Units:
        """The units of a rung: blocks of 2^rung tokens, or whole sequences."""
        if rung == 0:
            return self.tokens()
        return self._sequences(1.0) if rung >= self.highest else self._blocks(rung, rung)[0]

    def ladder(self) -> tuple[Units, list[int]]:
        """The units of rungs 1, 2, ... up to the highest, one rung after another, and how many each has.

        As long as every sequence divides into whole blocks, a rung is the rung below with its neighbours added; the
        rungs above are differences of running sums, all at once.
        """
        raw, truncated = [self._logs], [self._truncated_logs]
        divisible = min(_factors_of_two(self._chunk.sizes), self.highest, WHOLE - 1)
        for _ in range(divisible):
            raw.append(raw[-1][0::2] + raw[-1][1::2])
            if self._truncates:
                truncated.append(truncated[-1][0::2] + truncated[-1][1::2])
        counts = [part.numel() for part in raw[1:]]
        width, count = torch.tensor(
            [[2 << rung for rung in range(divisible)], counts], dtype=torch.int64, device=self._logs.device
        )
        sizes = [width.repeat_interleave(count)]
        occupied = self._chunk.occupied
        uniform = self._chunk.uniform
        lengths = [] if uniform else [occupied.repeat_interleave(occupied >> k) for k in range(1, divisible + 1)]
        if divisible < self.highest:
            above, more = self._blocks(divisible + 1, self.highest)
            raw.append(above.raw.float())
            truncated.append(above.truncated.float())
            assert above.sizes is not None
            sizes.append(above.sizes)
            if isinstance(above.lengths, Tensor):
                lengths.append(above.lengths)
            counts += more
        joined = torch.cat(raw[1:])
        capped = torch.cat(truncated[1:]) if self._truncates else joined
        of_sequence = max(self._chunk.sizes) if self._chunk.uniform else torch.cat(lengths)
        return Units(joined, capped, of_sequence, torch.cat(sizes)), counts

    @property
    def highest(self) -> int:
        """The lowest rung whose blocks hold every whole sequence of the chunk: above it nothing changes."""
        return min(max(max(self._chunk.sizes, default=0) - 1, 0).bit_length(), WHOLE)

    def between(self, position: float) -> Tensor:
        """(tokens,) float32 truncated weights at a real-valued rung: the two rungs around it, mixed linearly."""
        lower = min(int(position), WHOLE)
        share = position - lower
        weights = self._weights(self.rung(lower))
        if share > 0.0 and lower < self.highest:
            weights.lerp_(self._weights(self.rung(lower + 1)), share)
        return weights

    def _weights(self, units: Units) -> Tensor:
        """(tokens,) float32 truncated weights, new memory."""
        per_unit = exponential(units.truncated).float().clamp_(max=self._settings.cap)
        return units.spread(per_unit, self._logs.numel())

    def _blocks(self, first: int, last: int) -> tuple[Units, list[int]]:
        """The units of rungs first ... last, one rung after another, and how many each has; the last rung of the ladder
        holds sequences whole."""
        rungs = range(first, last + 1)
        chunk = self._chunk
        width = torch.tensor([2**40 if rung == WHOLE else 2**rung for rung in rungs], device=chunk.ends.device)
        blocks = (chunk.occupied + (width[:, None] - 1)).div_(width[:, None], rounding_mode="floor")
        by_rung = blocks.sum(1)
        through = blocks.flatten().cumsum(0)
        counts = by_rung.tolist()
        total = sum(counts)
        # The block's number inside its sequence is its number in the list less those before the sequence.
        before = through.view_as(blocks) - blocks
        shift = chunk.starts - (before - 1) * width[:, None]
        end = torch.arange(total, device=width.device).mul_(width.repeat_interleave(by_rung, output_size=total))
        end += shift.flatten().repeat_interleave(blocks.flatten(), output_size=total)
        end[through - 1] = chunk.ends.repeat(len(rungs))
        # Blocks follow one another without a gap: each begins where the one before it ends, each rung at 0.
        firsts = by_rung.cumsum(0) - by_rung
        raw = _differences(chunk.running[end], firsts)
        truncated = _differences(self._running_truncated[end], firsts) if self._truncates else raw
        lengths = max(chunk.sizes) if chunk.uniform else chunk.occupied.expand_as(blocks)
        if isinstance(lengths, Tensor):
            lengths = lengths.flatten().repeat_interleave(blocks.flatten(), output_size=total)
        return Units(raw, truncated, lengths, _differences(end, firsts)), counts

    def _sequences(self, power: float | Tensor) -> Units:
        occupied = self._chunk.occupied
        raw = self._chunk.sequence_sum()
        raw = raw if isinstance(power, float) and power == 1.0 else raw * power
        if not self._truncates:
            return Units(raw, raw, occupied, occupied, power)
        whole = self._running_truncated[self._chunk.bounds].diff()
        return Units(raw, whole * power, occupied, occupied, power)


def _differences(ends: Tensor, firsts: Tensor) -> Tensor:
    """ends less the one before each, and less nothing where a rung begins."""
    differences = ends.clone()
    differences[1:] -= ends[:-1]
    differences[firsts] = ends[firsts]
    return differences


def _factors_of_two(sizes: tuple[int, ...]) -> int:
    """The number of times that 2 divides every size."""
    bits = 0
    for size in sizes:
        bits |= size
    return (bits & -bits).bit_length() - 1 if bits else 0
