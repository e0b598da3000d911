"""Measures a batch chunk by chunk and adds up its sums."""

import math

import torch
from torch import Tensor

from ais_core.diagnostics.histogram import (
    CODES,
    FINE_BINS,
    LOG_BINS,
    codes,
    count,
    fine_magnitudes,
    fold,
    log_bins,
)
from ais_core.diagnostics.sums import LADDER, LAGS, Sums
from ais_core.levels import RUNGS, Levels, Units
from ais_core.ratios import Chunk, SequenceBatch, exponential
from ais_core.rejections import offending
from ais_core.settings import EXPONENT_LIMIT, MIXING, WEIGHTED, CorrectionSettings

TRUNCATED = ("tis", "vcpo", *MIXING)
"""Methods whose weight is min(w, cap)."""

TINY = -4.0
"""If every log-weight is below this, float32 sums of ratio - 1 have lost the digits of the ratios themselves."""


class Measurement:
    """Collects what the chunks of one batch contribute, and adds it up once at the end."""

    def __init__(self, batch: SequenceBatch, settings: CorrectionSettings) -> None:
        self._batch = batch
        self._settings = settings
        self._sums = Sums.zero(batch.log_ratio.device)
        # Beyond these bounds the sums of ratio - 1 do not tell the ratios within the exponent limit.
        self._plain = batch.smallest >= -EXPONENT_LIMIT and TINY <= batch.largest <= EXPONENT_LIMIT
        self._moments: list[Tensor] = []
        self._codes: list[Tensor] = []
        self._whole: list[Tensor] = []
        self._units: list[tuple[Units, Tensor | None]] = []
        self._kept: Tensor | None = None

    def add(self, chunk: Chunk, keep: Tensor | None, version_lag: Tensor | None, advantages: Tensor | None) -> None:
        """Adds one chunk.

        Args:
            keep: (tokens,) bool of the tokens that rejections leave in, or None for all.
            version_lag: (tokens,) int64, or None.
            advantages: (tokens,) where the second moment of the offending tokens is wanted, or None.
        """
        logs = chunk.log_ratio
        if not logs.numel():
            return
        if keep is not None:
            self._kept = keep.sum() if self._kept is None else self._kept + keep.sum()
        excess = _excess(logs)
        moments = self._token_moments(logs, excess)
        self._moments.append(moments)
        self._codes.append(count(codes(logs), CODES))
        self._whole.append(chunk.sequence_sum())
        if version_lag is not None:
            self._add_lags(logs, excess, moments, version_lag)
        if advantages is not None:
            self._add_offending(logs, advantages)
        self._add_weights(chunk, keep, moments)

    def finish(self) -> Tensor:
        """The flat sums of all chunks added."""
        sums = self._sums
        empty, tokens = self._batch.lengths.count(0), self._batch.log_ratio.numel()
        counts = (len(self._batch.lengths) - empty, empty, tokens, tokens, self._batch.non_finite_tokens)
        sums.section("batch").copy_(torch.tensor(counts, dtype=torch.float64))
        if self._kept is not None:
            sums.section("batch")[3] = self._kept
        if self._moments:
            sums.section("token").copy_(_total(self._moments)[1:])
            sums.section("token_histogram").copy_(fold(_total(self._codes)))
            self._add_sequences(torch.cat(self._whole))
        if self._units:
            units, keep_share = _joined(self._units)
            self._add_row(units, keep_share)
        return sums.flat

    def _token_moments(self, logs: Tensor, excess: Tensor) -> Tensor:
        """(10,) float64: how many tokens, and their `MOMENTS`."""
        plain = _plain_moments(logs, excess)
        if not self._plain:
            return torch.cat([plain, _raw_sums(logs.double())])
        number, _, _, _, excess_sum, square = plain
        none = torch.zeros_like(number)
        raw = torch.stack([number + excess_sum, number + 2.0 * excess_sum + square, none, none])
        return torch.cat([plain, raw])

    def _add_sequences(self, whole: Tensor) -> None:
        """Adds the log-ratios of whole sequences (occupied sequences,) float64."""
        self._sums.section("sequence").copy_(
            torch.cat([_plain_moments(whole, _excess(whole))[1:], _raw_sums(whole)]),
        )
        places = codes(whole.float())
        self._sums.section("sequence_histogram").copy_(fold(count(places, CODES)))
        self._sums.section("sequence_histogram_sum").copy_(fold(count(places, CODES, whole)))

    def _add_offending(self, logs: Tensor, advantages: Tensor) -> None:
        """Adds number and squared log-ratio, by magnitude, of tokens that the update would push further off-policy."""
        pushed = offending(logs, advantages).double()
        places = fine_magnitudes(logs)
        counts, squares = count(places, FINE_BINS, pushed), count(places, FINE_BINS, pushed * logs.square())
        self._sums.section("offending").add_(torch.cat([counts, squares]))

    def _add_lags(self, logs: Tensor, excess: Tensor, moments: Tensor, lag: Tensor) -> None:
        """Adds the token moments by version lag (tokens,)."""
        by_lag = self._sums.section("lag").view(LAGS, -1)
        oldest, newest = self._batch.lags
        if min(oldest, LAGS - 1) == min(newest, LAGS - 1):
            by_lag[min(newest, LAGS - 1)] += moments
            return
        inside = logs.double().exp_() * (logs.abs() <= EXPONENT_LIMIT)
        columns = (
            *(torch.ones_like(logs), logs, logs.abs(), logs.square(), excess, excess.square()),
            *(inside, inside.square(), logs < -EXPONENT_LIMIT, logs > EXPONENT_LIMIT),
        )
        place = lag.clamp(max=LAGS - 1)
        by_lag.add_(torch.stack([count(place, LAGS, values.double()) for values in columns], 1))

    def _add_weights(self, chunk: Chunk, keep: Tensor | None, moments: Tensor) -> None:
        """Adds the weights at every rung or of single tokens, or keeps those of longer units for the end."""
        settings, levels = self._settings, Levels(chunk, self._settings)
        ladder, log_weight = (self._sums.section(name).view(RUNGS, -1) for name in ("ladder", "log_weight"))
        if settings.weight_level == "adaptive":
            tokens = levels.tokens()
            rows, logs = _token_row(chunk, tokens, settings, keep, moments), _log_weights(tokens, [], settings, keep)
            if levels.highest:
                units, counts = levels.ladder()
                share = None if keep is None else _kept_share(units, counts, keep)
                rows = torch.cat([rows, _rows(units, counts, settings, share)])
                logs = torch.cat([logs, _log_weights(units, counts, settings, share)])
            # Rungs above the highest are the same as it.
            missing = RUNGS - len(rows)
            ladder.add_(torch.cat([rows, rows[-1:].expand(missing, -1)]))
            log_weight.add_(torch.cat([logs, logs[-1:].expand(missing, -1)]))
        elif settings.weight_level == "token" or settings.method not in WEIGHTED:
            units = levels.tokens()
            ladder[:1] += _token_row(chunk, units, settings, keep, moments)
            if settings.method in MIXING:
                log_weight[:1] += _log_weights(units, [], settings, keep)
        elif settings.weight_level == "prefix":
            self._add_row(levels.fixed(), keep)
        else:
            units = levels.fixed()
            self._units.append((units, None if keep is None else _kept_share(units, [units.raw.numel()], keep)))
        if settings.method == "handover":
            tokens = levels.tokens()
            ladder[1:2] += _token_row(chunk, tokens, settings, keep, moments)
            log_weight[1:2] += _log_weights(tokens, [], settings, keep)

    def _add_row(self, units: Units, keep_share: Tensor | None) -> None:
        """Adds units to the only row of a fixed level."""
        self._sums.section("ladder").view(RUNGS, -1)[:1] += _rows(units, [], self._settings, keep_share)
        if self._settings.method in MIXING:
            row = _log_weights(units, [], self._settings, keep_share)
            self._sums.section("log_weight").view(RUNGS, -1)[:1] += row


def unit_weights(units: Units, settings: CorrectionSettings) -> Tensor:
    """(units,) the method's weight before mixing and rejections.

    Truncated at the cap; for `mis` and `icepop`, raw inside the bounds and 0 outside; 1 for methods that only reject.
    """
    if settings.method not in WEIGHTED:
        return torch.ones_like(units.raw)
    if settings.method not in ("mis", "icepop"):
        return exponential(units.truncated).clamp_(max=settings.cap)
    lower, upper = settings.bounds
    raw = exponential(units.raw)
    return raw * ((raw >= lower) & (raw <= upper))


def _raw_sums(log_weights: Tensor) -> Tensor:
    """(4,) float64: `RAW` of log-weights (n,) float64."""
    weights = log_weights.clamp(max=EXPONENT_LIMIT).exp_() * (log_weights.abs() <= EXPONENT_LIMIT)
    low, high = (log_weights < -EXPONENT_LIMIT).sum(), (log_weights > EXPONENT_LIMIT).sum()
    return torch.stack([weights.sum(), weights.dot(weights), low.double(), high.double()])


def _plain_moments(logs: Tensor, excess: Tensor) -> Tensor:
    """(6,) float64: how many, and sums of the log-ratio, its magnitude and square, of ratio - 1 and its square."""
    number = logs.new_tensor(logs.numel(), dtype=torch.float64)
    magnitude = torch.linalg.vector_norm(logs, 1)
    return torch.stack([number, logs.sum(), magnitude, logs.dot(logs), excess.sum(), excess.dot(excess)])


def _total(parts: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _joined(parts: list[tuple[Units, Tensor | None]]) -> tuple[Units, Tensor | None]:
    """The units of all chunks, and the share of their tokens that is kept."""
    if len(parts) == 1:
        return parts[0]
    units, shares = [part for part, _ in parts], [share for _, share in parts if share is not None]
    raw = torch.cat([part.raw for part in units])
    plain = all(part.truncated is part.raw for part in units)
    truncated = raw if plain else torch.cat([part.truncated for part in units])
    sizes = torch.cat([part.sizes for part in units if part.sizes is not None])
    powers = [part.power for part in units if isinstance(part.power, Tensor)]
    power = torch.cat(powers) if powers else units[0].power
    return Units(raw, truncated, sizes, sizes, power), torch.cat(shares) if shares else None


def _token_row(
    chunk: Chunk, units: Units, settings: CorrectionSettings, keep: Tensor | None, moments: Tensor
) -> Tensor:
    """(1, 8) the row of the ladder where every token is a unit, as in `_rows`, from what is known of the tokens."""
    number, raw = moments[0], moments[6:]
    if isinstance(units.lengths, int):
        sequence_square = raw[1] * units.lengths
    else:
        weights = exponential(chunk.log_ratio) * (chunk.log_ratio.abs() <= EXPONENT_LIMIT)
        sequence_square = weights.square_().dot(units.lengths.float()).double()
    if keep is None and chunk.largest < math.log(settings.cap) and settings.method in TRUNCATED:
        # No weight is truncated: w = 1 + excess.
        _, _, _, _, total, square = moments[:6]
        applied = [total + number, square + 2.0 * total + number, torch.zeros_like(number)]
    else:
        weight = unit_weights(units, settings)
        capped = (units.truncated >= math.log(settings.cap)).sum().double()
        weight = weight if keep is None else weight * keep
        applied = [weight.sum().double(), weight.dot(weight).double(), capped]
    return torch.cat([raw, torch.stack([sequence_square, *applied])])[None]


def _rows(units: Units, counts: list[int], settings: CorrectionSettings, keep_share: Tensor | None) -> Tensor:
    """Rows of the ladder (rows, 8) float64, summed over tokens.

    The first counts[0] units make the first row, and so on; no counts stand for a single row. `keep_share` (units,) is
    the share of each unit's tokens that is kept, or None for all.
    """
    counts = counts or [units.raw.numel()]
    columns = units.raw.new_empty(len(LADDER), units.raw.numel())
    raw, square, low, high, sequence_square, weight, square_weight, capped = columns
    torch.exp(units.raw.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT), out=raw)
    if units.truncated is units.raw and settings.method in TRUNCATED:
        torch.clamp(raw, max=settings.cap, out=weight)
    else:
        weight.copy_(unit_weights(units, settings))
    low.copy_(units.raw < -EXPONENT_LIMIT)
    high.copy_(units.raw > EXPONENT_LIMIT)
    raw.mul_(1.0 - low - high)
    torch.square(raw, out=square)
    torch.mul(square, units.lengths, out=sequence_square)
    torch.square(weight, out=square_weight)
    capped.copy_(units.truncated >= math.log(settings.cap))
    if units.sizes is not None:
        columns.mul_(units.sizes)
    if keep_share is not None:
        # Rejections leave their mark on the applied weight alone.
        columns[5:7] *= keep_share
    return torch.stack([part.sum(1, dtype=torch.float64) for part in torch.split(columns, counts, 1)])


def _log_weights(units: Units, counts: list[int], settings: CorrectionSettings, keep_share: Tensor | None) -> Tensor:
    """(rows, LOG_BINS) float64: tokens by the logarithm of their truncated weight, if it responds to their own ratio.

    Weights at the cap and rejected tokens are left out; a token that enters its weight by a power counts that much.
    Arguments as `_rows`.
    """
    counts = counts or [units.raw.numel()]
    width = LOG_BINS + 1
    places = log_bins(units.truncated).masked_fill_(units.truncated >= math.log(settings.cap), LOG_BINS)
    if len(counts) > 1:
        first = torch.arange(0, len(counts) * width, width, device=places.device)
        sizes = torch.tensor(counts, device=places.device)
        places += first.repeat_interleave(sizes, output_size=places.numel())
    tokens = None if units.sizes is None else units.sizes * units.power
    if keep_share is not None:
        tokens = keep_share if tokens is None else tokens * keep_share
    return count(places, len(counts) * width, tokens).view(-1, width)[:, :-1].double()


def _kept_share(units: Units, counts: list[int], keep: Tensor) -> Tensor:
    """(units,) the share of each unit's tokens that is kept; every row of the ladder covers all tokens once."""
    if units.sizes is None:
        return keep
    through = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
    ends = torch.cat([sizes.cumsum(0) for sizes in torch.split(units.sizes, counts)])
    return (through[ends] - through[ends - units.sizes]) / units.sizes


def _excess(log_weights: Tensor) -> Tensor:
    """exp - 1, with the clamped exponent, exact where the log-weight is small."""
    return log_weights.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).expm1_()
