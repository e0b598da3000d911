"""Counts the tokens of a batch by log-ratio and weight, and adds up the mismatch of each response.

Everything stays on the device until the batch is done: no microbatch waits for the host because of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from ais.contracts.trajectory import ScoredGroup
from ais.trainer.learning.token_ratios import TokenRatios
from ais.trainer.mismatch import LOG_RATIO_BOUNDS, WEIGHT_BOUNDS, Counts, Mismatch, ReplicaMismatch
from ais.trainer.policy.microbatch import Microbatch
from ais.trainer.ranks.ranks import Ranks
from ais_core.diagnostics import Moments
from ais_core.plan import Plan
from ais_core.settings import EXPONENT_LIMIT


class Spread:
    """The sums of one batch of `sequences` responses, filled while it is trained."""

    def __init__(self, sequences: int, device: torch.device, watched: Mapping[int, int] | None = None) -> None:
        """`watched`: of which responses the log-ratios of how many tokens are kept."""

        def bounds(values: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._bounds = [bounds(LOG_RATIO_BOUNDS), bounds(WEIGHT_BOUNDS), bounds(WEIGHT_BOUNDS)]
        # For log-ratios, raw weights and applied weights: a count for each bucket, and the sum.
        self._counts = [zeros(len(one) + 2) for one in self._bounds]
        # For each response: tokens, |log-ratio|, ratio, ratio squared.
        self._sequences = zeros(sequences, 4)
        self._tokens = TokenRatios(watched or {}, sequences, device)

    def add(self, log_ratios: torch.Tensor, weights: torch.Tensor, microbatch: Microbatch) -> None:
        """Adds one microbatch's tokens, float32 [T]."""
        ratios = log_ratios.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).exp()
        for sums, bounds, values in zip(self._counts, self._bounds, (log_ratios, ratios, weights), strict=True):
            places = torch.bucketize(values.contiguous(), bounds)
            sums[:-1].index_add_(0, places, torch.ones_like(values, dtype=torch.float64))
            sums[-1] += values.sum(dtype=torch.float64)
        columns = torch.stack([torch.ones_like(ratios), log_ratios.abs(), ratios, ratios.square()], 1)
        self._sequences.index_add_(0, microbatch.sequences[microbatch.rows], columns.double())
        self._tokens.add(log_ratios, microbatch)

    def merge(self, ranks: Ranks) -> None:
        """Adds what the other ranks have added up."""
        parts = [*self._counts, self._sequences, self._tokens.sums]
        flat = ranks.sum(torch.cat([part.flatten() for part in parts]), "distributions").cpu()
        pieces = torch.split(flat, [part.numel() for part in parts])
        *self._counts, self._sequences, self._tokens.sums = [
            piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)
        ]

    def mismatch(self, groups: Sequence[ScoredGroup], plan: Plan | None) -> Mismatch:
        """What the merged sums say of the batch that `groups` are."""
        found = plan.diagnostics if plan is not None else None
        log_ratios, raw, applied = (_counts(sums.tolist()) for sums in self._counts)
        return Mismatch(
            kept_share=found.kept_share if found else None,
            capped_share=found.truncated_share if found else None,
            log_ratios=log_ratios,
            raw_weights=raw,
            applied_weights=applied,
            by_lag=found.by_lag if found else (),
            by_replica=self._by_replica(groups),
            by_token=self._tokens.by_response(),
        )

    def _by_replica(self, groups: Sequence[ScoredGroup]) -> dict[tuple[str, str], ReplicaMismatch]:
        sums: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * 4)
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        for one, values in zip(trajectories, self._sequences.tolist(), strict=True):
            name = one.replica_id, str(one.precision)
            sums[name] = [old + new for old, new in zip(sums[name], values, strict=True)]
        return {
            name: ReplicaMismatch(int(tokens), distance / tokens, Moments(ratio / tokens, square / tokens).ess_ratio)
            for name, (tokens, distance, ratio, square) in sums.items()
            if tokens > 0
        }


def _counts(sums: list[float]) -> Counts:
    *counts, total = sums
    return Counts(tuple(counts), total)
