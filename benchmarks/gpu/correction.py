"""The correction of a whole batch on the device: sums, diagnostics, alpha, weights, and what each token's loss is
multiplied by.

Against it: truncated token ratios in plain torch, which measure nothing; the metrics that trainers of the field compute
eagerly (`benchmarks/correction.py`); and the time that the device needs to read the log-probs of both policies and the
mask once, and to write one weight a token. Packed batches have no mask to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import ais_core
from ais_core import CorrectionSettings, SequenceBatch
from benchmarks import correction as eager
from benchmarks.gpu import timing
from benchmarks.gpu.points import Session, Values

MISMATCH = 0.03
"""Standard deviation of the log-ratios, nats."""
CAP = 2.0
SETTINGS = {
    "sequence": CorrectionSettings(level="sequence", mixing=eager.SETTINGS),
    "adaptive": CorrectionSettings(level="adaptive", mixing=eager.SETTINGS),
    "tis": CorrectionSettings(method="tis", level="token"),
}


@dataclass(frozen=True)
class Drawn:
    """Log-probs of one batch. Padded: all three (B, T); packed: (tokens,), and no mask."""

    proximal: Tensor
    behaviour: Tensor
    advantages: Tensor
    """(B,)."""
    lengths: Tensor
    """int64 (B,)."""
    mask: Tensor | None

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def least_bytes(self) -> int:
        """What must be read and written however it is computed."""
        return self.proximal.numel() * (4 + 4 + 4 + (0 if self.mask is None else 1))

    def by_token(self) -> Tensor:
        """The advantages, one a token."""
        if self.mask is not None:
            return self.advantages[:, None].expand_as(self.proximal)
        return self.advantages.repeat_interleave(self.lengths, output_size=self.proximal.numel())


def padded(rows: int, columns: int, device: str) -> Drawn:
    """Answers of different lengths, from an eighth of the columns up."""
    lengths = torch.linspace(columns / 8, columns, rows, device=device).round().long()
    mask = torch.arange(columns, device=device) < lengths[:, None]
    return _drawn((rows, columns), lengths, mask, device)


def packed(sequences: int, length: int, device: str) -> Drawn:
    """Sequences between half of `length` and all of it, laid end to end."""
    lengths = torch.linspace(length / 2, length, sequences, device=device).round().long()
    return _drawn((int(lengths.sum()),), lengths, None, device)


def _drawn(shape: tuple[int, ...], lengths: Tensor, mask: Tensor | None, device: str) -> Drawn:
    generator = torch.Generator(device).manual_seed(0)
    proximal = -3.0 * torch.rand(shape, device=device, generator=generator)
    noise = torch.randn(shape, device=device, generator=generator) * MISMATCH - MISMATCH**2 / 2
    advantages = torch.randn(len(lengths), device=device, generator=generator)
    return Drawn(proximal, proximal - noise, advantages, lengths, mask)


def library(drawn: Drawn, settings: CorrectionSettings) -> Tensor:
    """What each token's loss is multiplied by, in the shape of the log-probs."""
    correction = ais_core.build(settings)
    ratios = ais_core.log_ratio(drawn.proximal, drawn.behaviour)
    if drawn.mask is None:
        batch = SequenceBatch.packed(ratios, drawn.lengths)
    else:
        batch = SequenceBatch.padded(ratios, drawn.mask)
    plan, _ = correction.plan(correction.measure(batch, drawn.advantages), None)
    return correction.weights(batch, drawn.advantages, plan) * drawn.by_token()


def token_tis(drawn: Drawn) -> Tensor:
    """The same of truncated token ratios, in plain torch."""
    weights = (drawn.proximal - drawn.behaviour).exp().clamp(max=CAP)
    if drawn.mask is not None:
        weights = weights * drawn.mask
    return weights * drawn.by_token()


def eager_metrics(drawn: Drawn) -> Tensor:
    """Metrics, alpha and weights of a padded batch as they are computed elsewhere."""
    assert drawn.mask is not None
    _, weights, _ = eager.plain(drawn.proximal, drawn.behaviour, drawn.mask.float())
    return weights * drawn.by_token()


def measure(session: Session) -> None:
    device = session.device
    sizes = ((8, 64), (4, 256)) if session.small else ((256, 2048), (64, 16_384))
    (rows, columns), (sequences, length) = sizes
    copied = timing.copy_bytes_per_second(device, 1 << (20 if session.small else 30))
    batches = {
        f"padded {rows} x {columns}": partial(padded, rows, columns, device),
        f"packed {sequences} x {length}": partial(packed, sequences, length, device),
    }
    for label, draw in batches.items():
        drawn = draw()
        floor = 1e3 * drawn.least_bytes / copied
        calls: dict[str, Callable[[], Tensor]] = {"plain token tis": partial(token_tis, drawn)}
        if drawn.mask is not None:
            calls["eager metrics"] = partial(eager_metrics, drawn)
        for name, settings in SETTINGS.items():
            calls[f"ais_core {name}"] = partial(library, drawn, settings)
        for name, call in calls.items():
            session.measure(f"{label}, {name}", partial(_figures, call, drawn, floor, device))


def _figures(call: Callable[[], Tensor], drawn: Drawn, floor: float, device: str) -> Values:
    result = call()
    assert result.shape == drawn.proximal.shape
    assert bool(result.isfinite().all())
    waits = timing.host_waits(call, device)
    return {
        "milliseconds": timing.milliseconds(call, device),
        "floor_milliseconds": floor,
        "peak_megabytes": timing.peak_of(call, device) / 1e6,
        "tokens": drawn.tokens,
        "host_waits": waits.total(),
        "waits_at": "; ".join(f"{place} x{count}" for place, count in waits.most_common()),
    }
