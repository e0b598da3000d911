"""The last check of new weights before they serve: they must give finite log-probs in the precision that will serve."""

from __future__ import annotations

import torch

from services.contracts.sampling import Precision
from services.rollout.engine import WeightsRejectedError
from services.rollout.engines.torch_engine.architecture import Architecture
from services.rollout.engines.torch_engine.cache import KeyValueCache
from services.rollout.engines.torch_engine.decoder import Decoder
from services.rollout.engines.torch_engine.weights import DecoderWeights

PROBE_TOKENS = 16


def probe(weights: DecoderWeights, architecture: Architecture, precision: Precision) -> None:
    """Raises WeightsRejectedError. Finite weights can still overflow, and a quantiser can still divide by zero."""
    length = min(PROBE_TOKENS, architecture.max_positions)
    tokens = torch.linspace(0, architecture.vocab_size - 1, length).long()
    decoder = Decoder(architecture, precision, length)
    cache = KeyValueCache.allocate(architecture, 1, length)
    if length > 1:
        decoder.fill(weights, tokens[None, :-1], torch.tensor([0]), cache)
    logits = decoder.decode(weights, tokens[-1:], torch.tensor([length - 1]), cache)
    if not torch.isfinite(logits).all():
        raise WeightsRejectedError("logits", "finite log-probs from a probe of the new weights", "NaN or infinity")
