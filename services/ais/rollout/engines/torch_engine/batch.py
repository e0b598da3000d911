"""One decode step of the running batch: slots, decoder, cache and sampling put together. Lives in one thread."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ais.contracts.sampling import Precision
from ais.rollout.engine import SamplingFailedError
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.cache import KeyValueCache
from ais.rollout.engines.torch_engine.fused import best_decoder
from ais.rollout.engines.torch_engine.graphs import GraphedDecoder
from ais.rollout.engines.torch_engine.invariance.blocks import POSITIONS, ROWS, whole_blocks
from ais.rollout.engines.torch_engine.sampling import distribution, draw, kept_beside, uniforms
from ais.rollout.engines.torch_engine.slots import Ended, Group, Slots
from ais.rollout.engines.torch_engine.weights import DecoderWeights

FILL_TOKENS = 8192
"""Prompt tokens computed at once; bounds the memory of activations."""


@dataclass(frozen=True)
class ServedPolicy:
    """Weights and the name of what they are."""

    weights: DecoderWeights
    version: int
    digest: str


class Batch:
    """Samples with one policy at a time; the policy may change between two steps."""

    def __init__(
        self,
        architecture: Architecture,
        precision: Precision,
        policy: ServedPolicy,
        slots: int,
        positions: int,
        *,
        invariant: bool = False,
    ) -> None:
        """Computes on the device of the policy's weights. `invariant`: see `invariance`; on a CPU."""
        self.policy = policy
        self.slots = Slots(slots, positions)
        self._device = device = policy.weights.device
        self._invariant = invariant
        if invariant:
            slots, positions = whole_blocks(slots, ROWS), whole_blocks(positions, POSITIONS)
        self._decoder = best_decoder(architecture, precision, positions, device)
        self._cache = KeyValueCache.allocate(architecture, precision, slots, positions, device)
        self._graphed = GraphedDecoder(self._decoder, policy.weights, self._cache) if device.type == "cuda" else None

    def submit(self, group: Group) -> None:
        self.slots.submit(group)

    def cancel(self, ticket: int) -> None:
        self.slots.cancel(ticket)

    def replace(self, policy: ServedPolicy) -> None:
        """Takes a new policy. What running sequences have in the cache is computed again with it.

        So each token's log-prob is that of one policy over its whole prefix, which a trainer can recompute; a cache
        left behind by older weights would make it that of a mixture no single version has.
        """
        self.policy = policy
        if self._graphed is not None:
            self._graphed.load(policy.weights)
        self._fill(self.slots.occupied)

    def step(self) -> list[Ended]:
        """One token for every running sequence; gives what has ended. Needs a batch that is not idle."""
        slots = self.slots
        changes = slots.admit()
        self._fill(changes.filled)
        if changes.copied_to:
            self._cache.copy_rows(changes.copied_from, changes.copied_to, changes.copied_positions)
        if changes.moved_to:
            self._cache.copy_rows(changes.moved_from, changes.moved_to, changes.moved_positions)
        count = slots.count
        logprobs = distribution(
            self._decode(count),
            torch.from_numpy(slots.temperature[:count]),
            torch.from_numpy(slots.top_k[:count]),
            torch.from_numpy(slots.top_p[:count]),
            torch.from_numpy(slots.min_p[:count]),
        )
        tokens, chosen = draw(logprobs, torch.from_numpy(uniforms(slots.keys[:count], slots.draws[:count])))
        kept = kept_beside(logprobs, tokens, slots.truncated_rows)
        sampled = tokens.cpu().numpy(), chosen.cpu().numpy()
        ended = slots.record(*sampled, self.policy.version, time.monotonic(), kept)
        self._cache.clear_rows([one.row for one in ended if isinstance(one.outcome, SamplingFailedError)])
        return ended

    def _decode(self, count: int) -> torch.Tensor:
        """Logits of the next token of rows 0 .. count - 1."""
        positions = self.slots.positions[:count]
        length = int(positions.max()) + 1
        tokens = torch.from_numpy(self.slots.tokens[np.arange(count), positions])
        at = torch.from_numpy(positions)
        if self._invariant:  # rows that fill the block up write into free rows of the cache
            more = (0, whole_blocks(count, ROWS) - count)
            tokens, at, length = F.pad(tokens, more), F.pad(at, more), whole_blocks(length, POSITIONS)
            return self._decoder.decode(self.policy.weights, tokens, at, length, self._cache)[:count]
        if self._graphed is not None:
            return self._graphed.decode(tokens, at, length)
        return self._decoder.decode(self.policy.weights, tokens, at, length, self._cache)

    def _fill(self, rows: list[int]) -> None:
        """Computes keys and values of everything before each row's next token, many rows at once."""
        lengths = self.slots.positions
        rows = sorted((row for row in rows if lengths[row] > 0), key=lambda row: -lengths[row])
        while rows:
            length = int(lengths[rows[0]])
            together = 1 if self._invariant else max(1, FILL_TOKENS // length)
            chunk, rows = rows[:together], rows[together:]
            tokens = torch.from_numpy(self.slots.tokens[chunk, :length]).to(self._device)
            if self._invariant:
                tokens = F.pad(tokens, (0, whole_blocks(length, POSITIONS) - length))
            self._decoder.fill(self.policy.weights, tokens, torch.tensor(chunk, device=self._device), self._cache)
