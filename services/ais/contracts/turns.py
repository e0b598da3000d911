"""The turns of an episode as they cross the wire, and what of a trajectory's text the policy wrote.

A trajectory keeps what was sampled apart from the context between turns (what tools and users said): every array that
has one value a token is about sampled tokens alone. So no log-prob, version or loss of a context token exists that a
reader could forget to mask.

A turn may begin anew, where its context is not the tokens so far and some more: a chat template left out what was
thought before. The trajectory is then read as several sequences, its passages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np

from ais.contracts.malformed import refuse
from ais.contracts.sampling import FinishReason
from ais.contracts.v1 import trajectory_pb2 as pb

MOST_TURNS = 4_096
"""Turns of one trajectory."""

TOKEN_DTYPE = np.dtype("<i4")
_UNSIGNED_DTYPE = np.dtype("<u4")
_NONE = np.empty(0, dtype=TOKEN_DTYPE)

FINISH_TO_PROTO = {FinishReason.STOP: pb.FINISH_REASON_STOP, FinishReason.LENGTH: pb.FINISH_REASON_LENGTH}
_FINISH_FROM_PROTO: dict[int, FinishReason] = {number: reason for reason, number in FINISH_TO_PROTO.items()}


@dataclass(frozen=True)
class Turn:
    """What the environment said and the policy answered."""

    context_token_ids: np.ndarray
    """int32 [C]: what is read between the turn before and this one, nothing in the first; or all that is read before
    this one, where it begins anew."""
    tokens: int
    """Sampled tokens, 1 or more."""
    finish_reason: FinishReason
    max_new_tokens: int
    """Sampled tokens at which the turn would have ended."""
    seed: int | None = None
    begins_anew: bool = False
    """Whether the policy read nothing before `context_token_ids`; never in the first turn."""


@dataclass(frozen=True)
class Segment:
    """A run of tokens of one origin. `token_ids` int32 [L], L >= 1."""

    token_ids: np.ndarray
    sampled: bool
    """Whether the policy sampled them; otherwise they are context, which is never trained on."""


def segments(token_ids: np.ndarray, turns: Sequence[Turn]) -> tuple[Segment, ...]:
    """What follows the prompt, in order. `token_ids` int32 [T] are the sampled tokens; no turns: a single response."""
    if not turns:
        return (Segment(token_ids, sampled=True),)
    parts, begin = [], 0
    for turn in turns:
        if len(turn.context_token_ids):
            parts.append(Segment(turn.context_token_ids, sampled=False))
        parts.append(Segment(token_ids[begin : begin + turn.tokens], sampled=True))
        begin += turn.tokens
    return tuple(parts)


@dataclass(frozen=True)
class Passage:
    """What the policy reads as one sequence, from position 0 on."""

    prompt_token_ids: np.ndarray
    """int32 [P], P >= 1: all before its first sampled token."""
    text_token_ids: np.ndarray
    """int32 [L], L >= 1: from its first sampled token on."""
    sampled: np.ndarray
    """bool [L]: which of `text_token_ids` the policy sampled."""

    def __len__(self) -> int:
        return len(self.prompt_token_ids) + len(self.text_token_ids)


def passages(prompt_token_ids: np.ndarray, token_ids: np.ndarray, turns: Sequence[Turn]) -> tuple[Passage, ...]:
    """The sequences that hold the sampled tokens `token_ids` int32 [T], each of them once and in order: one, which
    begins with the prompt int32 [P], and another for each turn that begins anew."""
    beginnings = [place for place, turn in enumerate(turns) if turn.begins_anew]
    if not beginnings:
        return (_passage(prompt_token_ids, segments(token_ids, turns)),)
    found, begin = [], 0
    for first, last in pairwise([0, *beginnings, len(turns)]):
        opening, further = turns[first], turns[first + 1 : last]
        end = begin + sum(turn.tokens for turn in turns[first:last])
        after = segments(token_ids[begin:end], [replace(opening, context_token_ids=_NONE), *further])
        found.append(_passage(opening.context_token_ids if first else prompt_token_ids, after))
        begin = end
    return tuple(found)


def tokens_read(read: Iterable[Passage]) -> int:
    """Tokens that the policy computed: of each passage all but the last, which is only predicted."""
    return sum(len(passage) - 1 for passage in read)


def _passage(prompt_token_ids: np.ndarray, parts: Sequence[Segment]) -> Passage:
    return Passage(
        prompt_token_ids,
        parts[0].token_ids if len(parts) == 1 else np.concatenate([part.token_ids for part in parts]),
        np.repeat([part.sampled for part in parts], [len(part.token_ids) for part in parts]),
    )


def encode_turns(message: pb.Trajectory, turns: Iterable[Turn]) -> None:
    """Adds the turns to a trajectory's message."""
    for turn in turns:
        message.turns.add(
            context_token_ids=turn.context_token_ids.astype(TOKEN_DTYPE, copy=False).tobytes(),
            tokens=turn.tokens,
            finish_reason=FINISH_TO_PROTO[turn.finish_reason],
            max_new_tokens=turn.max_new_tokens,
            seed=turn.seed,
            begins_anew=turn.begins_anew,
        )


def decode_turns(message: pb.Trajectory, tokens: int, vocab_size: int, field: str) -> tuple[Turn, ...]:
    """The turns of a trajectory with so many sampled `tokens`; none for a single response.

    Raises MalformedRecordError; `field` is the trajectory's.
    """
    if not message.turns:
        return ()
    if len(message.turns) > MOST_TURNS:
        refuse(f"{field}.turns", f"expected up to {MOST_TURNS}, got {len(message.turns)}")
    turns = tuple(_decode(turn, vocab_size, f"{field}.turns[{place}]") for place, turn in enumerate(message.turns))
    for place, turn in enumerate(turns):
        if bool(len(turn.context_token_ids)) != (place > 0):
            expected = "tokens between two turns" if place else "none before the first turn, which the prompt precedes"
            refuse(
                f"{field}.turns[{place}].context_token_ids", f"expected {expected}, got {len(turn.context_token_ids)}"
            )
    if turns[0].begins_anew:
        refuse(f"{field}.turns[0].begins_anew", "expected false in the first turn, which the prompt precedes")
    if (covered := sum(turn.tokens for turn in turns)) != tokens:
        refuse(f"{field}.turns", f"expected turns that cover all {tokens} sampled tokens, they cover {covered}")
    if message.turns[-1].finish_reason != message.finish_reason:
        refuse(f"{field}.finish_reason", "expected that of the last turn")
    return turns


def beginnings_of(message: pb.Trajectory) -> set[int]:
    """Which sampled tokens are the first of turns that begin anew. Another branch of an episode may have been sampled
    before what stands in front of it, by an older version."""
    ends = accumulate(turn.tokens for turn in message.turns)
    return {end - turn.tokens for turn, end in zip(message.turns, ends, strict=True) if turn.begins_anew}


def _decode(turn: pb.Turn, vocab_size: int, field: str) -> Turn:
    if not 1 <= turn.tokens <= turn.max_new_tokens:
        refuse(f"{field}.tokens", f"expected 1 to max_new_tokens = {turn.max_new_tokens}, got {turn.tokens}")
    context = turn.context_token_ids
    return Turn(
        context_token_ids=(decode_token_ids(context, vocab_size, f"{field}.context_token_ids") if context else _NONE),
        tokens=turn.tokens,
        finish_reason=decode_finish(turn.finish_reason, f"{field}.finish_reason"),
        max_new_tokens=turn.max_new_tokens,
        seed=turn.seed if turn.HasField("seed") else None,
        begins_anew=turn.begins_anew,
    )


def decode_finish(number: int, field: str) -> FinishReason:
    """Raises MalformedRecordError for a reason that is none."""
    if number not in _FINISH_FROM_PROTO:
        refuse(field, f"expected STOP or LENGTH, got {number}")
    return _FINISH_FROM_PROTO[number]


def decode_token_ids(data: bytes, vocab_size: int, field: str) -> np.ndarray:
    """Packed tokens as int32 [T], T >= 1, each in [0, vocab_size). Raises MalformedRecordError."""
    if not data or len(data) % TOKEN_DTYPE.itemsize:
        refuse(field, f"expected a positive multiple of {TOKEN_DTYPE.itemsize} bytes, got {len(data)}")
    token_ids = np.frombuffer(data, dtype=TOKEN_DTYPE)
    if int(token_ids.view(_UNSIGNED_DTYPE).max()) >= vocab_size:  # a negative number is a large one here
        lowest, highest = int(token_ids.min()), int(token_ids.max())
        outside = lowest if lowest < 0 else highest
        refuse(field, f"token id {outside} is outside the vocabulary of {vocab_size}")
    return token_ids
