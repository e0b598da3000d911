"""The last checks of new weights before they serve, in the precision that will serve."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ais.contracts.sampling import Precision
from ais.contracts.weights.refusal import PROBE, WeightsRefusedError
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.cache import KeyValueCache
from ais.rollout.engines.torch_engine.decoder import Decoder
from ais.rollout.engines.torch_engine.weights import DecoderWeights

PREFIX_TOKENS = 16


def check_finite(weights: DecoderWeights, architecture: Architecture, precision: Precision) -> None:
    """Raises WeightsRefusedError. Finite weights can still overflow, and a quantiser can still divide by zero."""
    length = min(PREFIX_TOKENS, architecture.max_positions)
    device = weights.device
    tokens = torch.linspace(0, architecture.vocab_size - 1, length).long().to(device)
    decoder = Decoder(architecture, precision, length, device)
    cache = KeyValueCache.allocate(architecture, precision, 1, length, device)
    if length > 1:
        decoder.fill(weights, tokens[None, :-1], torch.tensor([0], device=device), cache)
    logits = decoder.decode(weights, tokens[-1:], torch.tensor([length - 1], device=device), length, cache)
    if not torch.isfinite(logits).all():
        raise WeightsRefusedError(PROBE, "expected finite logits from the new weights, got NaN or infinity")


def score(
    weights: DecoderWeights, architecture: Architecture, precision: Precision, sequences: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Log-probs of each sequence's tokens but the first, at temperature 1; a sequence has two tokens or more."""
    device = weights.device
    decoder = Decoder(architecture, precision, max(map(len, sequences)), device)
    return [decoder.score(weights, torch.tensor(tokens, device=device)).tolist() for tokens in sequences]
