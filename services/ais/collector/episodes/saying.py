"""What the policy's tokens say to a program: the text, up to where that is to stop, and the calls of tools. Pure.

The tokens stay what was sampled. A text that ends the answer is looked for in what they say: the turn ends with the
token that completes it, and what was sampled behind that is thrown away, as if it never had been: what comes later has
no part in how likely a token is. The text is told without it; the turn has it, and whatever else that token says.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ais.collector.environments.tool_calls import ToolCall, form_of, split_calls
from ais.collector.exercise import Exercise
from ais.collector.prompts.tokenizer import PolicyTokenizer, Tools
from ais.collector.rewards.response import Response
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import Trajectory


@dataclass(frozen=True)
class Said:
    """A turn of the policy."""

    response: Trajectory
    """As it is recorded."""
    judged: Response
    """As verifiers get it."""
    text: str
    """As the program gets it, without the calls."""
    calls: tuple[ToolCall, ...]


def said_by(exercise: Exercise, sampled: Trajectory, stops: Sequence[str], tools: Tools) -> Said:
    """What was sampled says, where any of `stops` ends it and those `tools` are there; None: none."""
    response, judged = cut_at(exercise, sampled, stops)
    if tools is None or judged.finish_reason is not FinishReason.STOP:
        return Said(response, judged, judged.text, ())
    text, calls = split_calls(judged.text, tools, form_of(str(exercise.tokenizer.tokenizer.chat_template)))
    return Said(response, judged, text, calls)


def cut_at(exercise: Exercise, sampled: Trajectory, stops: Sequence[str]) -> tuple[Trajectory, Response]:
    """What was sampled up to the token that completes the first of `stops`, and its text before that."""
    whole = exercise.response(sampled)
    if not any(stop in whole.text for stop in stops):
        return sampled, whole
    tokens = sampled.token_ids.tolist()

    def stopped(length: int) -> bool:
        text = exercise.tokenizer.decode_response(tokens[:length])
        return any(stop in text for stop in stops)

    length = bisect_left(range(1, len(tokens)), True, key=stopped) + 1
    text = exercise.tokenizer.decode_response(tokens[:length])
    end = min(place for stop in stops if (place := text.find(stop)) >= 0)
    response = replace(
        sampled,
        token_ids=sampled.token_ids[:length],
        behaviour_logprobs=sampled.behaviour_logprobs[:length],
        spans=tuple(replace(span, end=min(span.end, length)) for span in sampled.spans if span.begin < length),
        finish_reason=FinishReason.STOP,
        kept=sampled.kept.first(length) if sampled.kept is not None else None,
        routed=sampled.routed.part(0, len(sampled.routed) - (len(tokens) - length))
        if sampled.routed is not None
        else None,
    )
    return response, replace(whole, text=text[:end], finish_reason=FinishReason.STOP, tokens=length)


def logprobs_of(tokenizer: PolicyTokenizer, response: Trajectory) -> list[tuple[str, float]]:
    """How each sampled token is written, and its log-prob."""
    pairs = zip(response.token_ids.tolist(), response.behaviour_logprobs.tolist(), strict=True)
    return [(tokenizer.text_of(token), logprob) for token, logprob in pairs]


def why_no_stop(tokenizer: PolicyTokenizer, stops: Sequence[str]) -> str | None:
    """Why an answer cannot be ended by one of them; None: it can."""
    special = [str(token) for token in tokenizer.tokenizer.all_special_tokens] if stops else []
    for stop in stops:
        if held := next((token for token in special if token in stop), None):
            return f"{stop!r} holds the special token {held!r}, which no answer's text has: leave it out"
        if "\N{REPLACEMENT CHARACTER}" in stop:
            return "a replacement character stands for a part of another one: leave it out"
    return None
