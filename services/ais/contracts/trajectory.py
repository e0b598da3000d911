"""Trajectories as they cross the wire, validated at every border.

`decode_*` turns protobuf into frozen records and refuses anything malformed, or outside `ais.contracts.limits`, with
the field and the reason; `encode_*` is its inverse. Decoded arrays are read-only views into the message's bytes.

Most of the cost is moving bytes (`ais bench queue --profile`). So messages are filled in place, because protobuf copies
a message that is assigned to another, and sampling parameters and precision, which a whole group shares, are checked
once for each distinct content.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from ais.contracts.journey.times import Journey, decode_journey, encode_journey
from ais.contracts.limits import (
    HIGHEST_LOGPROB,
    HIGHEST_VERSION,
    LARGEST_REWARD,
    LONGEST_SECONDS,
    LOWEST_LOGPROB,
    MOST_TRAJECTORIES,
)
from ais.contracts.malformed import MalformedRecordError as MalformedRecordError  # decoding raises it
from ais.contracts.malformed import check_name, refuse
from ais.contracts.reward_components import RewardComponent, decode_components, encode_components
from ais.contracts.routing.routed import RoutedExperts, check_tokens, decode_routed, encode_routed
from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.truncation.kept import KeptTokens, decode_kept, encode_kept
from ais.contracts.turns import (
    FINISH_TO_PROTO,
    Passage,
    Segment,
    Turn,
    beginnings_of,
    decode_finish,
    decode_turns,
    encode_turns,
    passages,
    segments,
    tokens_read,
)
from ais.contracts.turns import TOKEN_DTYPE as TOKEN_DTYPE  # the dtype and the decoder belong to whole records too
from ais.contracts.turns import decode_token_ids as decode_token_ids
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.runtime.text import printable

SINGLE_RESPONSES, WITH_TURNS, WITH_KEPT_TOKENS, WITH_PASSAGES, WITH_ROUTES = 1, 2, 3, 4, 5
"""Layouts of ScoredGroup that are read. A group is written in the lowest that holds it, as readers of earlier releases
know it. One with turns must be refused where these are unknown, because what follows its prompt is not what was sampled
alone; one with kept tokens, because its log-probs are not those of the whole vocabulary; one with a turn that begins
anew, because that was not sampled after all that stands before it; one with routed experts, because a trainer that is
to send tokens to these would do without."""

LOGPROB_DTYPE = np.dtype("<f4")
_ONE_TOKEN = np.zeros(1, dtype=TOKEN_DTYPE)
"""The shortest prompt."""

LONGEST_ANSWER = 1000
"""Characters of a group's answer that are sent and accepted."""

DISTINCT_KEPT = 256
"""Distinct sampling parameters and precisions whose wire form is remembered: each group has its own seed."""


@dataclass(frozen=True)
class PolicySpan:
    """Response tokens [begin, end) were sampled by policy `version`, whose weights have the content `digest`."""

    version: int
    begin: int
    end: int
    digest: str = ""


@dataclass(frozen=True)
class TrajectoryBounds:
    """What the reader knows and checks a record against."""

    vocab_size: int
    """Token ids must be below it."""
    newest_version: int | None = None
    """Newest policy version that may have sampled a token. None: the reader does not know."""


@dataclass(frozen=True)
class Trajectory:
    """What was sampled in answer to a prompt: one response, or the turns of an episode.

    `token_ids` int32 [T] and `behaviour_logprobs` float32 [T], T >= 1, are the sampled tokens alone, and so is what
    `spans` count. What stands between turns is in `turns`.
    """

    trajectory_id: str
    group_id: str
    sample_index: int
    token_ids: np.ndarray
    behaviour_logprobs: np.ndarray
    spans: tuple[PolicySpan, ...]
    finish_reason: FinishReason
    sampling: SamplingParameters
    precision: Precision
    engine: str
    engine_version: str
    replica_id: str
    first_token_seconds: float
    total_seconds: float
    turns: tuple[Turn, ...] = ()
    """The turns of an episode; none for a single response."""
    kept: KeptTokens | None = None
    """What truncated sampling left to draw from; None where it was not truncated, or the engine cannot tell."""
    routed: RoutedExperts | None = None
    """The experts that read each token, passage by passage; None where the replica does not record them."""

    @property
    def oldest_version(self) -> int:
        return min(span.version for span in self.spans)

    @property
    def version_span(self) -> int:
        """Versions between the oldest and the newest that sampled a token: 0 where one sampled all."""
        return max(span.version for span in self.spans) - self.oldest_version

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """What follows the prompt, in order: sampled tokens and, between turns, context."""
        return segments(self.token_ids, self.turns)

    def passages(self, prompt_token_ids: np.ndarray) -> tuple[Passage, ...]:
        """The sequences that the policy read: one that begins with the prompt int32 [P], and another for each turn
        that begins anew. Each sampled token is in one of them, behind what it was sampled after."""
        return passages(prompt_token_ids, self.token_ids, self.turns)

    @cached_property
    def text_token_ids(self) -> np.ndarray:
        """int32 [L]: all that follows the prompt, context between turns included. For people: where a turn begins anew,
        what it has read is repeated here, and what the policy has read is in `passages`."""
        return np.concatenate([part.token_ids for part in self.segments]) if self.turns else self.token_ids

    @cached_property
    def sampled(self) -> np.ndarray:
        """bool [L]: which of `text_token_ids` the policy sampled; `token_ids` are those, in order."""
        return np.repeat([part.sampled for part in self.segments], [len(part.token_ids) for part in self.segments])


@dataclass(frozen=True)
class ScoredGroup:
    """All samples of one prompt with their rewards, one entry of the queue. `prompt_token_ids` int32 [P], P >= 1."""

    group_id: str
    ordinal: int
    prompt_id: str
    prompt_token_ids: np.ndarray
    trajectories: tuple[Trajectory, ...]
    rewards: tuple[float, ...]
    task: str
    attempt: int
    answer: str = ""
    """What the verifier compared the responses with: for people, and cut on the wire to `LONGEST_ANSWER`."""
    components: tuple[RewardComponent, ...] = ()
    """What the rewards are made of."""
    redraw: int = 0
    """Groups of this ordinal that were thrown away before, because their rewards were all equal."""
    journey: Journey | None = None
    """When it came to each place before the queue; None in a group of an earlier release."""

    @cached_property
    def oldest_version(self) -> int:
        return min(trajectory.oldest_version for trajectory in self.trajectories)


def encode_trajectory(trajectory: Trajectory) -> pb.Trajectory:
    message = pb.Trajectory()
    _fill(message, trajectory)
    return message


def encode_group(group: ScoredGroup) -> bytes:
    message = pb.ScoredGroup(
        schema_version=_layout(group.trajectories),
        group_id=group.group_id,
        ordinal=group.ordinal,
        prompt_id=group.prompt_id,
        prompt_token_ids=group.prompt_token_ids.astype(TOKEN_DTYPE, copy=False).tobytes(),
        rewards=group.rewards,
        task=group.task,
        attempt=group.attempt,
        answer=group.answer[:LONGEST_ANSWER],
        redraw=group.redraw,
    )
    for trajectory in group.trajectories:
        _fill(message.trajectories.add(), trajectory)
    encode_components(message, group.components)
    encode_journey(message, group.journey)
    return message.SerializeToString()


def _layout(trajectories: tuple[Trajectory, ...]) -> int:
    if any(one.routed is not None for one in trajectories):
        return WITH_ROUTES
    if any(turn.begins_anew for one in trajectories for turn in one.turns):
        return WITH_PASSAGES
    if any(one.kept is not None for one in trajectories):
        return WITH_KEPT_TOKENS
    return WITH_TURNS if any(one.turns for one in trajectories) else SINGLE_RESPONSES


def _fill(message: pb.Trajectory, trajectory: Trajectory) -> None:
    message.trajectory_id = trajectory.trajectory_id
    message.group_id = trajectory.group_id
    message.sample_index = trajectory.sample_index
    message.token_ids = trajectory.token_ids.astype(TOKEN_DTYPE, copy=False).tobytes()
    message.behaviour_logprobs = trajectory.behaviour_logprobs.astype(LOGPROB_DTYPE, copy=False).tobytes()
    for span in trajectory.spans:
        message.spans.add(version=span.version, begin=span.begin, end=span.end, digest=span.digest)
    message.finish_reason = FINISH_TO_PROTO[trajectory.finish_reason]
    message.sampling.MergeFromString(_encoded(trajectory.sampling))
    message.precision.MergeFromString(_encoded(trajectory.precision))
    message.engine = trajectory.engine
    message.engine_version = trajectory.engine_version
    message.replica_id = trajectory.replica_id
    message.timings.first_token_seconds = trajectory.first_token_seconds
    message.timings.total_seconds = trajectory.total_seconds
    encode_turns(message, trajectory.turns)
    encode_kept(message, trajectory.kept)
    encode_routed(message, trajectory.routed)


@lru_cache(maxsize=DISTINCT_KEPT)
def _encoded(parameters: SamplingParameters | Precision) -> bytes:
    return parameters.to_proto().SerializeToString()


def decode_trajectory(message: pb.Trajectory, bounds: TrajectoryBounds, field: str = "trajectory") -> Trajectory:
    """Raises MalformedRecordError; `field` is the first part of the field it names."""
    for name in ("trajectory_id", "group_id"):
        check_name(getattr(message, name), f"{field}.{name}")
    for name in ("engine", "engine_version", "replica_id"):
        check_name(getattr(message, name), f"{field}.{name}", may_be_empty=True)
    for name in ("first_token_seconds", "total_seconds"):
        if not 0.0 <= (seconds := getattr(message.timings, name)) <= LONGEST_SECONDS:
            refuse(f"{field}.timings.{name}", f"expected 0 to {LONGEST_SECONDS:g} seconds, got {seconds:g}")
    token_ids = decode_token_ids(message.token_ids, bounds.vocab_size, f"{field}.token_ids")
    logprobs = decode_logprobs(message.behaviour_logprobs, len(token_ids), f"{field}.behaviour_logprobs")
    spans = _decode_spans(message, len(token_ids), bounds.newest_version, f"{field}.spans")
    finish_reason = decode_finish(message.finish_reason, f"{field}.finish_reason")
    try:
        sampling = _decode_sampling(message.sampling.SerializeToString())
        precision = _decode_precision(message.precision.SerializeToString())
    except ValidationError as error:
        first = error.errors()[0]
        section = "precision" if error.title == "Precision" else "sampling"
        where = ".".join(map(str, (field, section, *first["loc"])))
        refuse(where, f"{first['msg']}, got {printable(repr(first['input']), 100)}")
    turns = decode_turns(message, len(token_ids), bounds.vocab_size, field)
    return Trajectory(
        trajectory_id=message.trajectory_id,
        group_id=message.group_id,
        sample_index=message.sample_index,
        token_ids=token_ids,
        behaviour_logprobs=logprobs,
        spans=spans,
        finish_reason=finish_reason,
        sampling=sampling,
        precision=precision,
        engine=message.engine,
        engine_version=message.engine_version,
        replica_id=message.replica_id,
        first_token_seconds=message.timings.first_token_seconds,
        total_seconds=message.timings.total_seconds,
        turns=turns,
        kept=decode_kept(message, token_ids, bounds.vocab_size, field),
        routed=_decode_routed(message, token_ids, turns, field),
    )


def decode_group(payload: bytes, bounds: TrajectoryBounds) -> ScoredGroup:
    """Raises MalformedRecordError naming the first field that is wrong."""
    try:
        message = pb.ScoredGroup.FromString(payload)
    except DecodeError as error:
        raise MalformedRecordError("group", f"is not a ScoredGroup message: {error}") from error
    if not SINGLE_RESPONSES <= message.schema_version <= WITH_ROUTES:
        refuse("schema_version", f"expected {SINGLE_RESPONSES} to {WITH_ROUTES}, got {message.schema_version}")
    check_name(message.group_id, "group_id")
    for name in ("prompt_id", "task"):
        check_name(getattr(message, name), name, may_be_empty=True)
    if message.ordinal >= HIGHEST_VERSION:
        refuse("ordinal", f"expected a number below 2^53, got {message.ordinal}")
    if not 1 <= len(message.trajectories) <= MOST_TRAJECTORIES:
        refuse("trajectories", f"expected 1 to {MOST_TRAJECTORIES}, got {len(message.trajectories)}")
    if len(message.rewards) != len(message.trajectories):
        refuse(
            "rewards", f"expected one for each of {len(message.trajectories)} trajectories, got {len(message.rewards)}"
        )
    for index, reward in enumerate(message.rewards):
        if not abs(reward) <= LARGEST_REWARD:  # NaN is not
            refuse(f"rewards[{index}]", f"expected a number within +-{LARGEST_REWARD:g}, got {reward:g}")
    if len(message.answer) > LONGEST_ANSWER:
        refuse("answer", f"expected up to {LONGEST_ANSWER} characters, got {len(message.answer)}")
    trajectories = tuple(
        decode_trajectory(trajectory, bounds, f"trajectories[{index}]")
        for index, trajectory in enumerate(message.trajectories)
    )
    for index, trajectory in enumerate(trajectories):
        if trajectory.group_id != message.group_id:
            ours, theirs = printable(message.group_id, 100), printable(trajectory.group_id, 100)
            refuse(f"trajectories[{index}].group_id", f"expected {ours}, got {theirs}")
    prompt_token_ids = decode_token_ids(message.prompt_token_ids, bounds.vocab_size, "prompt_token_ids")
    for index, trajectory in enumerate(trajectories):
        check_routed(trajectory, prompt_token_ids, f"trajectories[{index}]")
    if len({trajectory.trajectory_id for trajectory in trajectories}) != len(trajectories):
        refuse("trajectories", "two of them have the same trajectory_id")
    return ScoredGroup(
        group_id=message.group_id,
        ordinal=message.ordinal,
        prompt_id=message.prompt_id,
        prompt_token_ids=prompt_token_ids,
        trajectories=trajectories,
        rewards=tuple(message.rewards),
        task=message.task,
        attempt=message.attempt,
        answer=message.answer,
        components=decode_components(message),
        redraw=message.redraw,
        journey=decode_journey(message),
    )


def _decode_routed(
    message: pb.Trajectory, token_ids: np.ndarray, turns: tuple[Turn, ...], field: str
) -> RoutedExperts | None:
    if not message.HasField("routed"):
        return None
    return decode_routed(message, tokens_read(passages(_ONE_TOKEN, token_ids, turns)), field)


def check_routed(trajectory: Trajectory, prompt_token_ids: np.ndarray, field: str = "trajectory") -> None:
    """Raises MalformedRecordError where the routed experts are not those of all that was read, from the prompt int32
    [P] on; `field` is the trajectory's."""
    if trajectory.routed is not None:
        check_tokens(trajectory.routed, tokens_read(trajectory.passages(prompt_token_ids)), field)


def group_id_of(payload: bytes) -> str:
    """The name in an encoded group, whatever else is wrong with it; empty where protobuf cannot read it."""
    try:
        return pb.ScoredGroup.FromString(payload).group_id
    except DecodeError:
        return ""


def decode_logprobs(data: bytes, tokens: int, field: str) -> np.ndarray:
    """float32 [tokens], of one token or more. Raises MalformedRecordError."""
    if len(data) != tokens * LOGPROB_DTYPE.itemsize:
        refuse(field, f"expected {tokens} float32 values, one for each token, got {len(data)} bytes")
    logprobs = np.frombuffer(data, dtype=LOGPROB_DTYPE)
    lowest, highest = float(logprobs.min()), float(logprobs.max())
    if math.isnan(lowest):  # one NaN makes both NaN
        refuse(field, "expected log-probs, got NaN")
    if highest > HIGHEST_LOGPROB:
        refuse(field, f"a log-prob cannot be positive, got {highest:g}")
    if lowest < LOWEST_LOGPROB:
        refuse(field, f"no token of log-prob {lowest:g} can be sampled, expected {LOWEST_LOGPROB:g} or more")
    return logprobs


def _decode_spans(message: pb.Trajectory, tokens: int, newest: int | None, field: str) -> tuple[PolicySpan, ...]:
    spans: list[PolicySpan] = []
    covered = 0
    previous = 0
    beginnings = beginnings_of(message)
    for part in message.spans:
        span = PolicySpan(part.version, part.begin, part.end, part.digest)
        if span.begin != covered or span.end <= span.begin:
            where = f"{field}[{len(spans)}]"
            refuse(where, f"expected a non-empty range from token {covered}, got [{span.begin}, {span.end})")
        check_name(span.digest, f"{field}[{len(spans)}].digest", may_be_empty=True)
        if span.version >= HIGHEST_VERSION:
            refuse(f"{field}[{len(spans)}].version", f"expected a number below 2^53, got {span.version}")
        if newest is not None and span.version > newest:
            where = f"{field}[{len(spans)}].version"
            refuse(where, f"policy version {span.version} is unknown, the newest is {newest}")
        if span.version < previous and span.begin not in beginnings:
            where = f"{field}[{len(spans)}].version"
            refuse(where, f"versions cannot go back, got {span.version} after {previous}")
        covered, previous = span.end, span.version
        spans.append(span)
    if covered != tokens:
        refuse(field, f"expected spans that cover all {tokens} tokens, they cover {covered}")
    return tuple(spans)


@lru_cache(maxsize=DISTINCT_KEPT)
def _decode_sampling(data: bytes) -> SamplingParameters:
    return SamplingParameters.from_proto(pb.SamplingParameters.FromString(data))


@lru_cache(maxsize=DISTINCT_KEPT)
def _decode_precision(data: bytes) -> Precision:
    return Precision.from_proto(pb.Precision.FromString(data))
