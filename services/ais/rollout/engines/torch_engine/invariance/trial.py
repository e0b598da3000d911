"""Whether a sequence's logits depend on the size of its batch on this processor: tried before anything is served."""

from __future__ import annotations

import torch

from ais.contracts.sampling import Precision
from ais.rollout.engine import ModelUnsupportedError
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.cache import KeyValueCache
from ais.rollout.engines.torch_engine.decoder import Decoder
from ais.rollout.engines.torch_engine.invariance.blocks import POSITIONS, ROWS, whole_blocks
from ais.rollout.engines.torch_engine.weights import DecoderWeights

TRIED_PREFIX = 11
TRIED_LENGTHS = (1, 2)
"""In blocks of positions."""


@torch.inference_mode()
def check_invariance(weights: DecoderWeights, architecture: Architecture, precision: Precision, slots: int) -> None:
    """Decodes one token of the same sequence in batches of several sizes and lengths.

    Raises ModelUnsupportedError where its logits are not the same, to the bit, and on a GPU.
    """
    if weights.device.type != "cpu":
        raise ModelUnsupportedError(
            "rollout.batch_invariant: the torch engine's kernels on a GPU depend on the size of the batch. Set "
            "rollout.device=cpu, or rollout.engine=vllm with rollout.precision.weights=bf16"
        )
    rows, length = whole_blocks(slots, ROWS), POSITIONS * TRIED_LENGTHS[-1]
    decoder = Decoder(architecture, precision, length, weights.device)
    cache = KeyValueCache.allocate(architecture, precision, rows, length, weights.device)
    prefix = torch.linspace(0, architecture.vocab_size - 1, POSITIONS).long()
    for row in range(rows):  # the others hold other sequences
        decoder.fill(weights, (prefix + row)[None] % architecture.vocab_size, torch.tensor([row]), cache)
    tokens, positions = (prefix[TRIED_PREFIX] + torch.arange(rows)) % architecture.vocab_size, [TRIED_PREFIX] * rows
    found = [
        decoder.decode(weights, tokens[:count], torch.tensor(positions[:count]), POSITIONS * blocks, cache)[0]
        for count in sorted({ROWS, whole_blocks(rows // 2, ROWS), rows})
        for blocks in TRIED_LENGTHS
    ]
    if not all(torch.equal(found[0], one) for one in found[1:]):
        raise ModelUnsupportedError(
            "rollout.batch_invariant: the logits of a sequence depend on the size of its batch here, by "
            f"{max(float((found[0] - one).abs().max()) for one in found):.2g} at most: this processor's linear algebra "
            "adds in another order. Leave the setting out"
        )
