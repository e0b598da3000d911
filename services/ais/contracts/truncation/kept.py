"""Which tokens truncated sampling left to draw from, as they cross the wire beside those that were drawn.

top-k, top-p and min-p cut a distribution and normalise what is left, so a token's behaviour log-prob is that among the
tokens kept. Which these are is known to the sampler alone: a trainer that cut its own distribution would keep others.
So they come with every sampled token, and the trainer scores over the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ais.contracts.malformed import refuse
from ais.contracts.turns import TOKEN_DTYPE, decode_token_ids
from ais.contracts.v1 import trajectory_pb2 as pb

COUNT_DTYPE = np.dtype("<i4")

NOT_TOLD = (
    "sampling is truncated and the replica does not tell which tokens were kept, without which the importance ratio is "
    "biased. vLLM tells it where collector.sampling.top_k is 1 to 128: set it, beside top_p or min_p too; or set "
    "top_p = 1, top_k = 0 and min_p = 0"
)
"""Why a response is not trained on."""


@dataclass(frozen=True)
class KeptTokens:
    """What else could have been drawn in the place of each of T sampled tokens."""

    counts: np.ndarray
    """int32 [T]: how many other tokens were kept; 0 where the sampled one was the only one."""
    token_ids: np.ndarray
    """int32 [sum of counts]: the others, token by token, each once and never the sampled one."""

    @classmethod
    def of(cls, others: Sequence[np.ndarray]) -> KeptTokens:
        """`others` int32 [counts[t]] of each token."""
        counts = np.array([len(one) for one in others], dtype=COUNT_DTYPE)
        return cls(counts, np.concatenate([np.empty(0, TOKEN_DTYPE), *others]).astype(TOKEN_DTYPE, copy=False))

    @classmethod
    def joined(cls, parts: Sequence[KeptTokens]) -> KeptTokens:
        """Those of tokens laid end to end."""
        return cls(np.concatenate([one.counts for one in parts]), np.concatenate([one.token_ids for one in parts]))

    def first(self, tokens: int) -> KeptTokens:
        """Those of the first `tokens` sampled ones."""
        return KeptTokens(self.counts[:tokens], self.token_ids[: int(self.counts[:tokens].sum())])


def encode_kept(message: pb.Trajectory, kept: KeptTokens | None) -> None:
    """Adds them to a trajectory's message."""
    if kept is None:
        return
    message.kept.counts = kept.counts.astype(COUNT_DTYPE, copy=False).tobytes()
    message.kept.token_ids = kept.token_ids.astype(TOKEN_DTYPE, copy=False).tobytes()


def decode_kept(message: pb.Trajectory, sampled: np.ndarray, vocab_size: int, field: str) -> KeptTokens | None:
    """Those of a trajectory whose `sampled` tokens are int32 [T]; None where none are told.

    Raises MalformedRecordError; `field` is the trajectory's.
    """
    if not message.HasField("kept"):
        return None
    if len(message.kept.counts) != len(sampled) * COUNT_DTYPE.itemsize:
        refuse(f"{field}.kept.counts", f"expected one int32 for each of {len(sampled)} tokens")
    counts = np.frombuffer(message.kept.counts, dtype=COUNT_DTYPE)
    lowest, highest = int(counts.min()), int(counts.max())
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        refuse(f"{field}.kept.counts", f"expected 0 to {vocab_size - 1} other tokens, got {wrong}")
    told, where = message.kept.token_ids, f"{field}.kept.token_ids"
    total = int(counts.sum(dtype=np.int64))
    if len(told) != total * TOKEN_DTYPE.itemsize:
        refuse(where, f"expected {total} int32 values, as the counts say, got {len(told)} bytes")
    if not total:
        return KeptTokens(counts, np.empty(0, dtype=TOKEN_DTYPE))
    token_ids = decode_token_ids(told, vocab_size, where)
    places = np.repeat(np.arange(len(sampled)), counts)
    if (token_ids == sampled[places]).any():
        refuse(where, "a sampled token is among the others that were kept beside it")
    # Each place's ids in order: two equal neighbours of one place are one token told twice.
    ordered = np.sort(places * np.int64(vocab_size) + token_ids)
    if (ordered[1:] == ordered[:-1]).any():
        refuse(where, "a token was kept twice in one place")
    return KeptTokens(counts, token_ids)
