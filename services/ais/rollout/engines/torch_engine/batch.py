"""One decode step of the running batch: slots, decoder, cache and sampling put together. Lives in one thread."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from ais.contracts.sampling import Precision
from ais.rollout.engine import Completion
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.cache import KeyValueCache
from ais.rollout.engines.torch_engine.decoder import Decoder
from ais.rollout.engines.torch_engine.sampling import distribution, draw, uniforms
from ais.rollout.engines.torch_engine.slots import Group, Slots
from ais.rollout.engines.torch_engine.weights import DecoderWeights

FILL_TOKENS = 8192
"""Prompt tokens computed at once; bounds the memory of activations."""


@dataclass(frozen=True)
class Policy:
    """Weights and the name of what they are."""

    weights: DecoderWeights
    version: int
    digest: str


class Batch:
    """Samples with one policy at a time; the policy may change between two steps."""

    def __init__(
        self, architecture: Architecture, precision: Precision, policy: Policy, slots: int, positions: int
    ) -> None:
        self.policy = policy
        self.slots = Slots(slots, positions)
        self._decoder = Decoder(architecture, precision, positions)
        self._cache = KeyValueCache.allocate(architecture, slots, positions)

    def submit(self, group: Group) -> None:
        self.slots.submit(group)

    def cancel(self, ticket: int) -> None:
        self.slots.cancel(ticket)

    def replace(self, policy: Policy) -> None:
        """Takes a new policy. What running sequences have in the cache is computed again with it.

        So each token's log-prob is that of one policy over its whole prefix, which a trainer can recompute; a cache
        left behind by older weights would make it that of a mixture no single version has.
        """
        self.policy = policy
        self._fill(list(range(self.slots.count)))

    def step(self) -> list[tuple[int, Completion]]:
        """One token for every running sequence; gives what is finished with its ticket. Needs a batch not idle."""
        slots = self.slots
        admission = slots.admit()
        self._fill(admission.filled)
        if admission.copied_to:
            self._cache.copy_rows(admission.copied_from, admission.copied_to, admission.copied_positions)
        if admission.moved_to:
            self._cache.copy_rows(admission.moved_from, admission.moved_to, admission.moved_positions)
        count = slots.count
        positions = slots.positions[:count]
        logits = self._decoder.decode(
            self.policy.weights,
            torch.from_numpy(slots.tokens[np.arange(count), positions]),
            torch.from_numpy(positions),
            self._cache,
        )
        logprobs = distribution(
            logits,
            torch.from_numpy(slots.temperature[:count]),
            torch.from_numpy(slots.top_k[:count]),
            torch.from_numpy(slots.top_p[:count]),
        )
        tokens, chosen = draw(logprobs, torch.from_numpy(uniforms(slots.keys[:count], slots.draws[:count])))
        return slots.record(tokens.numpy(), chosen.numpy(), self.policy.version, time.monotonic())

    def _fill(self, rows: list[int]) -> None:
        """Computes keys and values of everything before each row's next token, many rows at once."""
        lengths = self.slots.positions
        rows = sorted((row for row in rows if lengths[row] > 0), key=lambda row: -lengths[row])
        while rows:
            length = int(lengths[rows[0]])
            together = max(1, FILL_TOKENS // length)
            chunk, rows = rows[:together], rows[together:]
            tokens = torch.from_numpy(self.slots.tokens[chunk, :length])
            self._decoder.fill(self.policy.weights, tokens, torch.tensor(chunk), self._cache)
