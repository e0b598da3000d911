"""Holds the log-ratios between two policies over a batch of sequences, and forms products of ratios.

The only implementation works on the packed layout: the trainable tokens of all sequences one after another, and how
many each sequence has. A batch made from padded tensors or masks (prompts, tool output) is packed at once, and its
weights are given back in the shape that came in.

The library keeps three policies apart: `behaviour` sampled the tokens (quantised, perhaps older), `proximal` is the
trainer's policy at the start of the step, `current` is the one being optimised. A log-ratio here is
log proximal - log behaviour: its exponential weighs what behaviour sampled as if proximal had sampled it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ais_core.errors import NonFiniteError, ShapeError
from ais_core.settings import EXPONENT_LIMIT

NonFinite = Literal["raise", "mask"]

CHUNK_TOKENS = 64 * 1024
"""Tokens worked on at once on a CPU, so that memory does not grow with the batch. Smaller chunks spend their time in
calls."""

LARGEST_LOG_RATIO = 1e9
"""A log-ratio of larger magnitude is not a difference of log-probs but a sentinel, such as the most negative float that
stands for a forbidden token. Its square does not fit a float32, so it counts as not finite."""


def log_ratio(proximal: Tensor, behaviour: Tensor) -> Tensor:
    """log proximal - log behaviour, detached.

    Both become float32 before the subtraction, because a difference of two bfloat16 log-probs is mostly rounding.

    Args:
        proximal: log-probs of the sampled tokens under the policy at the start of the step, any shape and float dtype.
        behaviour: log-probs of the distribution really sampled, same shape.
    Raises:
        ShapeError: shapes or devices that differ, or tensors without values.
    """
    _check_tensors(proximal=proximal, behaviour=behaviour)
    if proximal.shape != behaviour.shape:
        raise ShapeError(
            f"proximal log-probs have shape {tuple(proximal.shape)}, behaviour log-probs {tuple(behaviour.shape)}"
        )
    return proximal.detach().float() - behaviour.detach().float()


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """Log-ratios of a batch, packed. Make one with `packed` or `padded`."""

    log_ratio: Tensor
    """(tokens,) float32, detached: the trainable tokens only."""
    lengths: tuple[int, ...]
    """Trainable tokens of each sequence; 0 is allowed."""
    version_lag: Tensor | None
    """(tokens,) int64: policy versions between the one that sampled a token and the one training it."""
    lags: tuple[int, int]
    """The smallest and the largest version lag; 0 where there are none."""
    non_finite_tokens: int
    """The number of tokens left out because their log-ratio was not finite."""
    smallest: float
    """The smallest log-ratio; inf for a batch without tokens."""
    largest: float
    """The largest log-ratio; -inf for a batch without tokens."""
    keep: Tensor | None
    """(shape.numel(),) bool: which places of the flattened layout that came in hold the tokens; None for all."""
    shape: torch.Size
    """The shape that came in, and in which weights are given back."""

    @classmethod
    def packed(
        cls,
        log_ratio: Tensor,
        lengths: Tensor,
        version_lag: Tensor | None = None,
        mask: Tensor | None = None,
        non_finite: NonFinite = "raise",
    ) -> "SequenceBatch":
        """A batch from flat tokens.

        Args:
            log_ratio: (T,) log proximal - log behaviour of the sampled tokens.
            lengths: (N,) integers that add up to T, zeros allowed.
            version_lag: (T,) integers, 0 or more where the mask is True, or None.
            mask: (T,) bool, False for tokens that were not sampled by the policy (prompts, tool output), or None.
            non_finite: `raise`, or `mask` to leave such tokens out and count them.
        Raises:
            ShapeError: lengths, lags, shapes, dtypes or devices that do not describe one batch, or tensors without
                values (device `meta`).
            NonFiniteError: a NaN or infinity, or a magnitude over LARGEST_LOG_RATIO, unless masked.
        """
        _check_tensors(log_ratio=log_ratio, version_lag=version_lag, mask=mask)
        if lengths.is_meta or log_ratio.ndim != 1 or lengths.ndim != 1:
            raise ShapeError(
                f"expected flat tensors with values, got {tuple(log_ratio.shape)} and lengths {tuple(lengths.shape)} "
                f"on {lengths.device}"
            )
        if lengths.numel() and (lengths.is_floating_point() or lengths.dtype == torch.bool):
            raise ShapeError(f"lengths are integers, got {lengths.dtype}")
        counts = [int(length) for length in lengths.tolist()]
        if min(counts, default=0) < 0 or sum(counts) != log_ratio.numel():
            raise ShapeError(f"lengths must be 0 or more and add up to {log_ratio.numel()} tokens, got {sum(counts)}")
        return cls._make(log_ratio, counts, version_lag, mask, non_finite)

    @classmethod
    def padded(
        cls,
        log_ratio: Tensor,
        mask: Tensor,
        version_lag: Tensor | None = None,
        non_finite: NonFinite = "raise",
    ) -> "SequenceBatch":
        """A batch from padded rows: log_ratio, mask (bool, True where trainable) and version_lag are (B, T).

        What padding holds does not matter. Raises as `packed`.
        """
        _check_tensors(log_ratio=log_ratio, version_lag=version_lag, mask=mask)
        if log_ratio.ndim != 2:
            raise ShapeError(f"a padded batch is (B, T), got {tuple(log_ratio.shape)}")
        rows, columns = log_ratio.shape
        return cls._make(log_ratio, [columns] * rows, version_lag, mask, non_finite)

    @classmethod
    def _make(
        cls,
        log_ratio: Tensor,
        counts: list[int],
        version_lag: Tensor | None,
        mask: Tensor | None,
        non_finite: NonFinite,
    ) -> "SequenceBatch":
        for name, tensor in (("version_lag", version_lag), ("mask", mask)):
            if tensor is not None and tensor.shape != log_ratio.shape:
                raise ShapeError(f"{name} has shape {tuple(tensor.shape)}, log_ratio {tuple(log_ratio.shape)}")
        if not log_ratio.is_floating_point() or (mask is not None and mask.dtype != torch.bool):
            raise ShapeError("log_ratio must be a float tensor, and mask a bool one")
        shape = log_ratio.shape
        flat = log_ratio.detach().reshape(-1).float().contiguous()
        keep = None if mask is None else mask.reshape(-1)
        kept = flat if keep is None else flat[keep]
        bad = 0
        smallest, largest = _extremes(kept)
        # A comparison with NaN is false, so this one pass finds every kind of bad value; only then look closer.
        if not (smallest >= -LARGEST_LOG_RATIO and largest <= LARGEST_LOG_RATIO) and kept.numel():
            usable = flat.abs() <= LARGEST_LOG_RATIO
            bad = int((~usable if keep is None else ~usable & keep).sum())
            if non_finite == "raise":
                raise NonFiniteError(
                    f"{bad} of {kept.numel()} log-ratios are NaN, infinite or beyond +-{LARGEST_LOG_RATIO:.0e}; check "
                    "the log-probs of both policies, or pass non_finite='mask' to leave those tokens out and count them"
                )
            keep = usable if keep is None else keep & usable
            kept = flat[keep]
            smallest, largest = _extremes(kept)
        if kept.numel() == flat.numel():
            keep = None
        else:
            assert keep is not None
            counts = _kept_by_sequence(keep, counts, shape)
        lag, lags = None, (0, 0)
        if version_lag is not None:
            lag, lags = _checked_lag(version_lag.reshape(-1), keep)
        return cls(kept, tuple(counts), lag, lags, bad, smallest, largest, keep, shape)

    def chunks(self) -> Iterator["Chunk"]:
        """The batch in pieces of whole sequences, in order. A batch of one piece keeps that piece and its sums."""
        if self.log_ratio.numel() <= self._limit:
            yield self._single
            return
        token, first = 0, 0
        while first < len(self.lengths):
            last, size = first, 0
            while last < len(self.lengths) and (last == first or size + self.lengths[last] <= self._limit):
                size += self.lengths[last]
                last += 1
            tokens = slice(token, token + size)
            yield Chunk(self.log_ratio[tokens], self.lengths[first:last], self.smallest, self.largest, tokens)
            token, first = token + size, last

    @property
    def _limit(self) -> int:
        return CHUNK_TOKENS if self.log_ratio.device.type == "cpu" else max(self.log_ratio.numel(), 1)

    @cached_property
    def _single(self) -> "Chunk":
        return Chunk(self.log_ratio, self.lengths, self.smallest, self.largest, slice(0, self.log_ratio.numel()))

    def restore(self, values: Tensor) -> Tensor:
        """Per-token values (tokens,) in the shape that came in; 0 where masked."""
        if self.keep is None:
            return values.reshape(self.shape)
        return values.new_zeros(self.shape.numel()).masked_scatter_(self.keep, values).reshape(self.shape)

    def per_token(self, values: Tensor) -> Tensor:
        """Values given per sequence (N,) or in the shape that came in, as (tokens,).

        Where a flat batch has as many tokens as sequences, the values are taken to be per sequence.
        """
        sequences = len(self.lengths)
        if values.shape == (sequences,):
            lengths = torch.tensor(self.lengths, dtype=torch.int64, device=values.device)
            return values.repeat_interleave(lengths, output_size=self.log_ratio.numel())
        if values.shape == self.shape:
            flat = values.reshape(-1)
            return flat if self.keep is None else flat[self.keep]
        raise ShapeError(f"expected ({sequences},) or {tuple(self.shape)}, got {tuple(values.shape)}")


@dataclass(frozen=True, eq=False)
class Chunk:
    """A run of whole sequences of a batch."""

    log_ratio: Tensor
    """(tokens,) float32."""
    sizes: tuple[int, ...]
    """Tokens of each sequence; 0 is allowed."""
    smallest: float
    """No log-ratio of the batch is smaller."""
    largest: float
    """No log-ratio of the batch is larger."""
    tokens: slice
    """The place of the tokens in the batch."""

    @cached_property
    def uniform(self) -> bool:
        """Whether all sequences that have tokens have the same number."""
        return len({*self.sizes} - {0}) <= 1

    @cached_property
    def lengths(self) -> Tensor:
        """(sequences,) int64: `sizes` on the device."""
        return torch.tensor(self.sizes, dtype=torch.int64, device=self.log_ratio.device)

    @cached_property
    def occupied(self) -> Tensor:
        """(occupied sequences,) int64: the lengths that are not 0."""
        return self.lengths if 0 not in self.sizes else self.lengths[self.lengths > 0]

    @cached_property
    def running(self) -> Tensor:
        """(tokens + 1,) float64: the log-ratios before each token, summed over the chunk."""
        return cumulative(self.log_ratio)

    @cached_property
    def ends(self) -> Tensor:
        """(occupied sequences,) int64: where each sequence ends."""
        return self.bounds[1:]

    @cached_property
    def starts(self) -> Tensor:
        """(occupied sequences,) int64: where each sequence starts."""
        return self.bounds[:-1]

    def spread(self, values: Tensor) -> Tensor:
        """Values per occupied sequence, repeated over its tokens."""
        return values.repeat_interleave(self.occupied, output_size=self.log_ratio.numel())

    def sequence_sum(self, values: Tensor | None = None) -> Tensor:
        """(occupied sequences,) float64 sums over each sequence of values (tokens,), or of the log-ratios."""
        return self._totals if values is None else cumulative(values)[self.bounds].diff()

    @cached_property
    def _totals(self) -> Tensor:
        return self.running[self.bounds].diff()

    @cached_property
    def bounds(self) -> Tensor:
        """(occupied sequences + 1,) int64: 0 and the end of each sequence."""
        return cumulative(self.occupied, torch.int64)


def cumulative(values: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """(n + 1,) sums of everything before each value, so that the sum of a range is a difference of two."""
    sums = values.new_zeros(values.numel() + 1, dtype=dtype)
    torch.cumsum(values, 0, dtype=dtype, out=sums[1:])
    return sums


def exponential(log_weights: Tensor) -> Tensor:
    """exp with its argument clamped to +-EXPONENT_LIMIT."""
    return log_weights.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).exp_()


def _extremes(values: Tensor) -> tuple[float, float]:
    """The smallest and the largest value, NaN if there is one; inf and -inf if there are no values."""
    if values.numel() == 0:
        return math.inf, -math.inf
    low, high = torch.stack(torch.aminmax(values)).tolist()
    return low, high


def _kept_by_sequence(keep: Tensor, counts: list[int], shape: torch.Size) -> list[int]:
    """The number of places kept in each sequence, from `keep` (shape.numel(),) and the sequences' lengths."""
    if len(shape) == 2:
        by_row: list[int] = keep.view(shape).sum(1, dtype=torch.int32).tolist()
        return by_row
    through = keep.new_zeros(keep.numel() + 1, dtype=torch.int32)
    torch.cumsum(keep, 0, dtype=torch.int32, out=through[1:])
    ends = torch.tensor([0, *counts], dtype=torch.int64, device=keep.device).cumsum(0)
    by_sequence: list[int] = through[ends].diff().tolist()
    return by_sequence


def _checked_lag(lag: Tensor, keep: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
    """(tokens,) int64 version lags, and their extremes. Raises ShapeError for fractions, NaN and negative lags."""
    if lag.is_floating_point() or lag.is_complex() or lag.dtype == torch.bool:
        raise ShapeError(f"version lags count policy versions and are integers, got {lag.dtype}")
    lag = lag.long() if keep is None else lag[keep].long()
    if not lag.numel():
        return lag, (0, 0)
    oldest, newest = torch.stack(torch.aminmax(lag)).tolist()
    if oldest < 0:
        raise ShapeError(f"version lags are 0 or more, got {oldest}: no token is sampled by a version that comes later")
    return lag, (oldest, newest)


def _check_tensors(**tensors: Tensor | None) -> None:
    """Refuses tensors that hold no values, are not strided, or lie on several devices. Raises ShapeError."""
    there = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in there.items():
        if tensor.is_meta:
            raise ShapeError(f"{name} is on the meta device and holds no values: compute the log-probs first")
        if tensor.layout != torch.strided:
            raise ShapeError(f"{name} has layout {tensor.layout}: pass a dense tensor")
    devices = {name: tensor.device for name, tensor in there.items()}
    if len({*devices.values()}) > 1:
        raise ShapeError(
            f"tensors of a batch lie on one device, got {', '.join(f'{n} on {d}' for n, d in devices.items())}"
        )
