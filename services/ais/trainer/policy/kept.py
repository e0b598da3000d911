"""Scoring over the tokens that truncated sampling left to draw from, and no others.

The behaviour policy drew each token among those it had kept, so its log-prob is that among these. The policy that is
trained is scored over the same ones: a ratio of two probabilities over one set, which is 1 where the policies are the
same. Without that, each would be too small by the mass that the sampler had cut off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ais.trainer.policy.microbatch import Microbatch

LEFT_OUT = -1e30
"""Logit of a token that was left out. Its probability is 0, and 0 times its log-prob is 0: with -inf that is NaN."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The tokens kept for T sampled ones."""

    targets: torch.Tensor
    """int64 [T]: those sampled."""
    counts: torch.Tensor
    """int64 [T]: how many others were kept beside each."""
    others: torch.Tensor
    """int64 [sum of counts]."""

    @classmethod
    def of(cls, microbatch: Microbatch) -> Kept | None:
        """None where sampling was not truncated."""
        if microbatch.kept_counts is None or microbatch.kept_ids is None:
            return None
        return cls(microbatch.targets, microbatch.kept_counts, microbatch.kept_ids)

    def split(self, length: int) -> list[Kept]:
        """In pieces of `length` sampled tokens, the last one shorter."""
        targets, counts = torch.split(self.targets, length), torch.split(self.counts, length)
        others = torch.split(self.others, [int(one.sum()) for one in counts])
        return [Kept(*piece) for piece in zip(targets, counts, others, strict=True)]

    def alone(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` [T, V] with those of all other tokens at `LEFT_OUT`."""
        kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, self.targets[:, None], True)
        rows = torch.arange(len(self.counts), device=logits.device).repeat_interleave(
            self.counts, output_size=len(self.others)
        )
        kept[rows, self.others] = True
        return logits.masked_fill(~kept, LEFT_OUT)
