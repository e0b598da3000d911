"""From the turns of an episode, each sampled by a call of its own, to one trajectory. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ais.contracts.routing.routed import RoutedExperts
from ais.contracts.trajectory import TOKEN_DTYPE, MalformedRecordError, PolicySpan, Trajectory
from ais.contracts.truncation.kept import KeptTokens
from ais.contracts.turns import Turn

MOST_TOKENS = 2**31 - 1
"""As sampling.max_new_tokens may say."""


@dataclass(frozen=True)
class SampledTurn:
    """One turn: the context before it, empty in the first, and what was sampled."""

    context: Sequence[int]
    response: Trajectory
    begins_anew: bool = False
    """Whether the context is all that was read before it."""


def joined(turns: Sequence[SampledTurn], group_id: str, sample_index: int, most_turns: int) -> Trajectory:
    """The trajectory of one turn or more, all sampled by one replica.

    Raises MalformedRecordError where turns were sampled in another precision or by another engine, or by versions that
    go back, where none begins anew.
    """
    responses = [turn.response for turn in turns]
    first = responses[0]
    for response in responses:
        for name in ("precision", "engine", "engine_version"):
            if getattr(response, name) != getattr(first, name):
                raise MalformedRecordError(f"trajectory.{name}", "another one within an episode")
    kept = [one.kept for one in responses if one.kept is not None]
    most = min(max(one.sampling.max_new_tokens for one in responses) * most_turns, MOST_TOKENS)
    return replace(
        first,
        trajectory_id=f"{group_id}/{sample_index}",
        group_id=group_id,
        sample_index=sample_index,
        token_ids=np.concatenate([response.token_ids for response in responses]),
        behaviour_logprobs=np.concatenate([response.behaviour_logprobs for response in responses]),
        spans=_spans(turns),
        finish_reason=responses[-1].finish_reason,
        sampling=first.sampling.model_copy(update={"max_new_tokens": most}),
        total_seconds=sum(response.total_seconds for response in responses),
        turns=tuple(_turn(turn) for turn in turns),
        kept=KeptTokens.joined(kept) if len(kept) == len(responses) else None,
        routed=_routed(turns),
    )


def _routed(turns: Sequence[SampledTurn]) -> RoutedExperts | None:
    """Those of all that was read, each token's from the call that read it first: where it was sampled. None where a
    turn has none."""
    parts: list[RoutedExperts] = []
    read = 0
    for turn in turns:
        if (own := turn.response.routed) is None:
            return None
        if parts and str(own) != str(parts[0]):
            raise MalformedRecordError(
                "trajectory.routed", f"another mixture within an episode: {own}, then {parts[0]}"
            )
        parts.append(own.part(0 if turn.begins_anew else read))
        read = len(own)
    return RoutedExperts.joined(parts)


def _spans(turns: Sequence[SampledTurn]) -> tuple[PolicySpan, ...]:
    """Those of all turns, over all sampled tokens; neighbours of one version are one span."""
    spans: list[PolicySpan] = []
    begin = 0
    for turn in turns:
        response = turn.response
        for span in response.spans:
            moved = replace(span, begin=begin + span.begin, end=begin + span.end)
            goes_on = span.begin > 0 or not turn.begins_anew
            if spans and goes_on and moved.version < spans[-1].version:
                raise MalformedRecordError(
                    "trajectory.spans.version",
                    f"cannot go back, got {moved.version} after {spans[-1].version}",
                )
            if spans and (moved.version, moved.digest) == (spans[-1].version, spans[-1].digest):
                moved = replace(moved, begin=spans.pop().begin)
            spans.append(moved)
        begin += len(response.token_ids)
    return tuple(spans)


def _turn(turn: SampledTurn) -> Turn:
    return Turn(
        context_token_ids=np.asarray(turn.context, dtype=TOKEN_DTYPE),
        tokens=len(turn.response.token_ids),
        finish_reason=turn.response.finish_reason,
        max_new_tokens=turn.response.sampling.max_new_tokens,
        seed=turn.response.sampling.seed,
        begins_anew=turn.begins_anew,
    )
