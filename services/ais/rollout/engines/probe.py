"""Whether new weights compute what the trainer computes with them. An engine scores the probe; it is judged here.

Policy: the mean gap to the trainer's log-probs is compared with a tolerance that grows with the probe's *surprise*, the
mean of -log p that the trainer itself finds. A probe keeps the sequences of the first batch. As training goes on they
become less likely and the policy sharper, and both multiply log-probs and their rounding errors alike. So the gap of
the right weights grows without anything being wrong; in proportion to the surprise it stays the same, and so does that
of wrong weights. No history enters: a replica that has just joined judges as one that has followed the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ais.contracts.sampling import Precision
from ais.contracts.trajectory import MalformedRecordError
from ais.contracts.weights.probe import Probe, read_probe
from ais.contracts.weights.refusal import PROBE, WeightsRefusedError

_TOLERANCES = {"bf16": 0.1, "int8": 0.5, "e4m3": 0.5, "e5m2": 0.7, "e2m1": 1.0}
"""Mean gap, nats a token, that a number format may cause on a probe of up to `CALM_SURPRISE`.

They stand between two things measured. Rounding: BF16 was off by up to 0.04, E4M3 by 0.35 (random, sharpened weights
of 0.6B parameters, another library; 0.14 on a trained model of 135M), an E4M3 cache by 0.13. On the demo model's
prompts and responses INT8 was off by 0.03, E4M3 by 0.08, E5M2 everywhere by 0.21, E2M1 weights by 0.44. Wrong weights
were off by 1.1 to 2.6 there, in every format: one layer's MLP zeroed, its query rows permuted, another model.
Weights ten steps older than the probe are nearer (0.2 to 0.4): that the right version came, its digest says.
"""
CALM_SURPRISE = 5.0
"""Mean -log p of a probe, nats a token, up to which a tolerance holds as it is; beyond, it grows in proportion.

Measured as shares of the surprise, on checkpoints of the demo and on its model with logits up to 8 times sharper: BF16
was off by less than 0.1%, INT8 and E4M3 by 2 to 3%, E5M2 by 4%, E2M1 by 6 to 11%, at every step and sharpness; wrong
weights by 21% (query rows permuted) to 125%. The tolerances are 2%, 10%, 14% and 20% beyond this surprise.
"""


@dataclass(frozen=True)
class ProbeResult:
    """How far the replica's log-probs of the probe's tokens are from the trainer's, nats a token."""

    mean_abs_gap: float
    max_abs_gap: float
    allowed: float
    """The mean gap that this probe allows."""


def tolerance(precision: Precision) -> float:
    """Mean gap, nats a token, allowed to a precision on a calm probe.

    The coarsest format decides, as its error outweighs the others'. Activations of BF16 weights are BF16 whatever the
    setting says.
    """
    formats = {precision.weights, precision.kv_cache}
    if precision.weights != "bf16":
        formats.add(precision.activations)
    return max(_TOLERANCES[name] for name in formats)


def probe_of(files: Sequence[Path], vocab_size: int) -> Probe | None:
    """The probe that came with a pushed snapshot, in its first file, or None. Raises WeightsRefusedError for one that
    is malformed."""
    try:
        return read_probe(files[0], vocab_size)
    except MalformedRecordError as error:
        raise WeightsRefusedError(error.field, f"expected a probe made by the trainer: {error.reason}") from error


def judge(probe: Probe, logprobs: Sequence[Sequence[float]], allowed: float) -> ProbeResult:
    """Compares the replica's `logprobs` with the trainer's, sequence by sequence, token by token from the second on.

    `allowed`: mean gap, nats a token, allowed on a calm probe. Raises WeightsRefusedError when a log-prob is not
    finite, or the mean gap is larger than this probe allows.
    """
    got = [logprob for sequence in logprobs for logprob in sequence]
    expected = [logprob for sequence in probe.logprobs for logprob in sequence]
    gaps = [abs(ours - trainers) for ours, trainers in zip(got, expected, strict=True)]
    if broken := sum(not math.isfinite(gap) for gap in gaps):
        raise WeightsRefusedError(PROBE, f"expected finite log-probs, got NaN or infinity for {broken} of {len(gaps)}")
    surprise = -math.fsum(expected) / len(expected)
    result = ProbeResult(
        mean_abs_gap=math.fsum(gaps) / len(gaps),
        max_abs_gap=max(gaps),
        allowed=allowed * max(1.0, surprise / CALM_SURPRISE),
    )
    if result.mean_abs_gap > result.allowed:
        raise WeightsRefusedError(
            PROBE,
            f"expected the trainer's log-probs within {result.allowed:.4g} nats a token, got a measured gap of "
            f"{result.mean_abs_gap:.4g} (mean of {len(gaps)} tokens; largest {result.max_abs_gap:.4g})",
            probe_gap=result.mean_abs_gap,
        )
    return result
