"""Real training steps of a model of 110 million parameters, and the files of the version after each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from ais.trainer.policy.policy import Policy
from ais.trainer.settings import OptimizerSettings
from ais.trainer.weights.snapshot import Snapshot, Staging, write_snapshot

WARM_UP_STEPS = 10
"""Steps before the first delta: Adam's mean and variance remember 10 and 20 of them."""
SETTLING_STEPS = 1
"""Steps at each learning rate before its first delta."""
SEQUENCES, LENGTH = 4, 64
CONFIG = Qwen3Config(
    vocab_size=32_000, hidden_size=768, intermediate_size=2304, num_hidden_layers=12, num_attention_heads=12,
    num_key_value_heads=4, head_dim=64, max_position_embeddings=512, tie_word_embeddings=True,
)  # fmt: skip


class Training:
    """Next-token loss on the bytes of this repository's documents: float32 masters, BF16 forward and backward passes,
    the trainer's AdamW and clipping. The random initial weights have the usual standard deviation of 0.02."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.policy = Policy(Qwen3ForCausalLM(CONFIG).float())
        settings = OptimizerSettings()
        self._settings = settings
        self._masters = list(self.policy.masters.values())
        self._optimizer = torch.optim.AdamW(
            self._masters, betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay, fused=True
        )
        documents = sorted(Path(__file__).parents[2].glob("docs/*.md"))
        self._text = torch.tensor(list(b"".join(one.read_bytes() for one in documents)))
        self._random = random.Random(0)
        self.version = 0

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self._masters)

    def step(self, learning_rate: float) -> float:
        """One optimizer step. Returns the loss, nats a token."""
        begins = [self._random.randrange(len(self._text) - LENGTH - 1) for _ in range(SEQUENCES)]
        tokens = torch.stack([self._text[begin : begin + LENGTH + 1] for begin in begins])
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.policy.model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._masters, self._settings.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.version += 1
        return float(loss.detach())

    def snapshot(self, staging: Path) -> Snapshot:
        return write_snapshot(self.version, self.policy.shapes, self.policy.weights(), None, Staging(staging))


def steps(
    training: Training, rates: list[float], deltas: int, staging: Path
) -> Iterator[tuple[float, Snapshot, Snapshot]]:
    """Learning rate and the versions before and after one step, `deltas` for each rate, from the lowest rate up."""
    for _ in range(WARM_UP_STEPS):
        training.step(rates[0])
    for rate in rates:
        for _ in range(SETTLING_STEPS):
            training.step(rate)
        before = training.snapshot(staging)
        for _ in range(deltas):
            training.step(rate)
            after = training.snapshot(staging)
            yield rate, before, after
            before = after
