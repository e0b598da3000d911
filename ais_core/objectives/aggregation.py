"""Turns the losses of tokens into one number.

Normalisers count the whole batch, not the part at hand, so that the losses of microbatches, and of ranks, add up.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ais_core.errors import SettingError, ShapeError
from ais_core.objective_settings import Aggregation


@dataclass(frozen=True, slots=True)
class Normalizer:
    """The counts of the whole batch, over all microbatches and ranks."""

    tokens: float
    """Trainable tokens."""
    sequences: float
    """Sequences; for `sequence_mean`, those with at least one trainable token."""
    constant_length: float | None = None
    """Aggregation `constant_length` needs it: the length every sequence is divided by, such as the longest response
    allowed."""


def aggregate(losses: Tensor, lengths: Tensor, aggregation: Aggregation, normalizer: Normalizer) -> Tensor:
    """The part of the batch's loss that these sequences contribute; contributions add up to the batch's loss.

        token_mean        sum of all tokens / tokens                            DAPO: every token counts alike
        sequence_mean     mean over sequences of their mean over tokens         GRPO: every sequence counts alike
        constant_length   sum of all tokens / (sequences * constant_length)     Dr. GRPO: no length bias

    Args:
        losses: (T,) per-token losses.
        lengths: (N,) tokens of each sequence.
    Returns:
        scalar, with the gradient of the losses.
    Raises:
        SettingError: an unknown aggregation, or `constant_length` without a positive one in the normalizer.
        ShapeError: lengths that do not add up to the losses (`sequence_mean`).
    """
    match aggregation:
        case "token_mean":
            return losses.sum() / max(normalizer.tokens, 1.0)
        case "sequence_mean":
            if int(lengths.sum()) != losses.numel():
                raise ShapeError(f"lengths add up to {int(lengths.sum())}, losses are {losses.numel()}")
            share = (1.0 / lengths.clamp(min=1)).repeat_interleave(lengths, output_size=losses.numel())
            return (losses * share).sum() / max(normalizer.sequences, 1.0)
        case "constant_length":
            length = normalizer.constant_length
            if length is None or not 0.0 < length < math.inf:
                raise SettingError(
                    f"aggregation 'constant_length' divides by Normalizer.constant_length, got {length}: set it to the "
                    "longest response allowed"
                )
            return losses.sum() / (max(normalizer.sequences, 1.0) * length)
        case _:
            raise SettingError(
                f"unknown aggregation {aggregation!r}; known: token_mean, sequence_mean, constant_length"
            )
