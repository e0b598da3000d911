"""Keeps the log-ratios of the tokens of a few responses, so that people can see which tokens the policies differ on.

Everything stays on the device until the batch is done, and has its size from the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ais.trainer.policy.microbatch import Microbatch


class TokenRatios:
    """The first tokens of the responses that are watched."""

    def __init__(self, watched: Mapping[int, int], sequences: int, device: torch.device) -> None:
        """`watched`: how many tokens are kept, by the number of a response among the `sequences` of the batch."""
        self._watched = watched
        offsets, kept, size = [0] * sequences, [0] * sequences, 0
        for sequence, tokens in watched.items():
            offsets[sequence], kept[sequence] = size, tokens
            size += tokens
        self._offsets = torch.tensor(offsets, device=device)
        self._kept = torch.tensor(kept, device=device)
        # A log-ratio and a count for each token that is kept; the last column takes all others.
        self.sums = torch.zeros(2, size + 1, dtype=torch.float64, device=device)

    def add(self, log_ratios: torch.Tensor, microbatch: Microbatch) -> None:
        """Adds one microbatch's tokens, float32 [T]."""
        if not self._watched:
            return
        sequences = microbatch.sequences[microbatch.rows]
        starts = microbatch.lengths.cumsum(0) - microbatch.lengths
        positions = torch.arange(len(log_ratios), device=log_ratios.device) - starts[microbatch.rows]
        places = torch.where(
            positions < self._kept[sequences], self._offsets[sequences] + positions, self.sums.shape[1] - 1
        )
        self.sums.index_add_(1, places, torch.stack([log_ratios, torch.ones_like(log_ratios)]).double())

    def by_response(self) -> dict[int, tuple[float, ...]]:
        """Nats, by the number of the response; without those whose tokens were not all measured."""
        values, counts = self.sums.tolist()
        found, begin = {}, 0
        for sequence, tokens in self._watched.items():
            end = begin + tokens
            if all(count == 1.0 for count in counts[begin:end]):
                found[sequence] = tuple(values[begin:end])
            begin = end
        return found
