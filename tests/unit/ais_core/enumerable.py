"""A policy over all short sequences, small enough to sum over instead of sampling: every expectation is exact."""

from dataclasses import dataclass

import torch
from torch import Tensor

STOP = 2
LONGEST = 4


@dataclass(frozen=True)
class World:
    """Tokens 0 and 1 go on, token 2 or a fourth token ends a sequence. Each prefix has its own logits."""

    sequences: tuple[tuple[int, ...], ...]
    reward: Tensor

    def log_probs(self, logits: Tensor) -> list[Tensor]:
        """Per sequence, (length,) log-probs of its tokens. logits: (prefixes, 3)."""
        table = logits.log_softmax(-1)
        return [
            torch.stack([table[prefix_number(sequence[:t]), token] for t, token in enumerate(sequence)])
            for sequence in self.sequences
        ]

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([len(sequence) for sequence in self.sequences])


def prefix_number(prefix: tuple[int, ...]) -> int:
    """Prefixes in breadth-first order."""
    number = 0
    for token in prefix:
        number = 2 * number + 1 + token
    return number


PREFIXES = 2**LONGEST - 1


def make_world(seed: int) -> World:
    sequences: list[tuple[int, ...]] = []

    def grow(prefix: tuple[int, ...]) -> None:
        for token in (0, 1, STOP):
            sequence = (*prefix, token)
            if token == STOP or len(sequence) == LONGEST:
                sequences.append(sequence)
            else:
                grow(sequence)

    grow(())
    generator = torch.Generator().manual_seed(seed)
    return World(tuple(sequences), torch.randn(len(sequences), generator=generator, dtype=torch.float64))


def make_policies(seed: int, mismatch: float) -> tuple[Tensor, Tensor]:
    """Logits (PREFIXES, 3) of the policy that trains (with gradient) and of the one that samples."""
    generator = torch.Generator().manual_seed(seed + 1)
    trained = torch.randn(PREFIXES, 3, generator=generator, dtype=torch.float64)
    sampled = trained + mismatch * torch.randn(PREFIXES, 3, generator=generator, dtype=torch.float64)
    return trained.requires_grad_(), sampled
