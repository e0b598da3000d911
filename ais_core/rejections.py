"""Decides which tokens are kept. A rejection gives 1 to what it keeps and 0 to what it drops.

    ratio, k1, k2, k3 of a token, or of a sequence by sum, mean or maximum      verl's rollout rejection sampling; TRL's
                                                                               and the geometric sequence mask
    OPSM   drop a sequence iff A < 0 and mean(-log r) > delta                  DeepSeek-V3.2 (arXiv 2512.02556)
    M2PO   drop the largest (log r)^2 among offending tokens until their mean   arXiv 2510.01161,
           is at most tau                                                      algorithm 1

An offending token is one that the update would push further off-policy: A > 0 and r > 1, or A < 0 and r < 1.

M2PO's greedy rule needs the order of all offending tokens of the batch. Sums that add know them in bins of 1/64 octave,
so the threshold is that of the greedy rule to 1.6%, on the strict side: the limit always holds. The paper masks the
dropped tokens, and so does this; the code that its authors released keeps them and clamps their ratio instead.
"""

import torch
from torch import Tensor

from ais_core.diagnostics.histogram import FINE_BINS, fine_edge
from ais_core.ratios import Chunk, exponential
from ais_core.settings import RejectionSettings


def kept(chunk: Chunk, rejection: RejectionSettings) -> Tensor:
    """(tokens,) bool: the tokens inside the rejection's bounds. Empty sequences have no tokens to keep."""
    logs = chunk.log_ratio
    if rejection.over == "token":
        return _inside(_statistic(logs, rejection.statistic), rejection)
    if rejection.over == "sequence_max":
        statistic = _statistic(logs, rejection.statistic)
        value = torch.segment_reduce(statistic, "max", lengths=chunk.occupied, unsafe=True)
    elif rejection.statistic == "ratio":
        value = exponential(_total(chunk, logs, rejection))
    else:
        value = _total(chunk, _statistic(logs, rejection.statistic), rejection)
    return chunk.spread(_inside(value, rejection))


def off_policy_sequences(chunk: Chunk, advantages: Tensor, threshold: float) -> Tensor:
    """(tokens,) bool: OPSM drops a token with a negative advantage when the mean -log r of its sequence is over
    `threshold` nats."""
    mean = -chunk.sequence_sum() / chunk.occupied
    return ~((advantages < 0) & chunk.spread(mean > threshold))


def offending(log_ratio: Tensor, advantages: Tensor) -> Tensor:
    """(tokens,) bool: tokens that the update would push further off-policy."""
    return log_ratio * advantages > 0


def second_moment_threshold(counts: list[float], squares: list[float], limit: float) -> float:
    """M2PO's threshold on |log r| of offending tokens; inf when nothing has to be masked.

    Bins are kept from the smallest magnitude up while their mean square stays at or under `limit`. The limit always
    holds, and at most one bin (1/64 octave) more than necessary is masked.

    Args:
        counts, squares: (FINE_BINS,) number and squared log-ratio of the offending tokens of the whole batch.
        limit: tau, nats squared.
    """
    count, total = 0.0, 0.0
    for index in range(FINE_BINS):
        count, total = count + counts[index], total + squares[index]
        if counts[index] > 0 and total > limit * count:
            return fine_edge(index)
    return float("inf")


def masked_share(counts: list[float], threshold: float, tokens: int) -> float:
    """The share of all tokens that M2PO masks at a threshold of `second_moment_threshold`."""
    masked = sum(count for index, count in enumerate(counts) if fine_edge(index) >= threshold)
    return masked / tokens if tokens else 0.0


def _statistic(logs: Tensor, name: str) -> Tensor:
    match name:
        case "ratio":
            return exponential(logs)
        case "k1":
            return -logs
        case "k2":
            return logs.square() / 2
        case _:
            return exponential(logs) - 1 - logs


def _total(chunk: Chunk, values: Tensor, rejection: RejectionSettings) -> Tensor:
    total = chunk.sequence_sum(values)
    return total / chunk.occupied if rejection.over == "sequence_mean" else total


def _inside(values: Tensor, rejection: RejectionSettings) -> Tensor:
    return (values >= rejection.lower) & (values <= rejection.upper)
