"""Trajectories as they cross the wire, validated once at every border.

`decode_*` turns protobuf into frozen records and refuses anything malformed with the field and the reason;
`encode_*` is its inverse. Decoded arrays are read-only views into the message's bytes.

What coding costs is mostly the moving of bytes (`ais bench queue --profile`): messages are filled in place, because
protobuf copies a message that is given to another, and how a trajectory was sampled, which all of a group share, is
checked once for each distinct content.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NoReturn

import numpy as np
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.v1 import trajectory_pb2 as pb

SCHEMA_VERSION = 1
"""Layout of ScoredGroup written and read by this code."""

TOKEN_DTYPE = np.dtype("<i4")
LOGPROB_DTYPE = np.dtype("<f4")
_UNSIGNED_DTYPE = np.dtype("<u4")

LONGEST_ANSWER = 1000
"""Characters of a group's answer that are sent and accepted."""

DISTINCT_KEPT = 256
"""Distinct sampling parameters and precisions whose wire form is remembered: each group has its own seed."""

_FINISH_TO_PROTO = {FinishReason.STOP: pb.FINISH_REASON_STOP, FinishReason.LENGTH: pb.FINISH_REASON_LENGTH}
_FINISH_FROM_PROTO = {number: reason for reason, number in _FINISH_TO_PROTO.items()}


class MalformedRecordError(ValueError):
    """A record that must not be used. `field` says where, `reason` says what was expected and what came."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True)
class PolicySpan:
    """Response tokens [begin, end) were sampled by policy `version`."""

    version: int
    begin: int
    end: int


@dataclass(frozen=True)
class TrajectoryBounds:
    """What the reader knows, and a record is checked against."""

    vocab_size: int
    """Token ids must be below it."""
    newest_version: int | None = None
    """No token can come from a policy newer than this. None: the reader does not know."""


@dataclass(frozen=True)
class Trajectory:
    """One sampled response. `token_ids` int32 [T], `behaviour_logprobs` float32 [T], T >= 1."""

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

    @property
    def oldest_version(self) -> int:
        return min(span.version for span in self.spans)


@dataclass(frozen=True)
class ScoredGroup:
    """All samples of one prompt with their rewards: one entry of the queue. `prompt_token_ids` int32 [P]."""

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

    @cached_property
    def oldest_version(self) -> int:
        return min(trajectory.oldest_version for trajectory in self.trajectories)


def encode_trajectory(trajectory: Trajectory) -> pb.Trajectory:
    message = pb.Trajectory()
    _fill(message, trajectory)
    return message


def encode_group(group: ScoredGroup) -> bytes:
    message = pb.ScoredGroup(
        schema_version=SCHEMA_VERSION,
        group_id=group.group_id,
        ordinal=group.ordinal,
        prompt_id=group.prompt_id,
        prompt_token_ids=group.prompt_token_ids.astype(TOKEN_DTYPE, copy=False).tobytes(),
        rewards=group.rewards,
        task=group.task,
        attempt=group.attempt,
        answer=group.answer[:LONGEST_ANSWER],
    )
    for trajectory in group.trajectories:
        _fill(message.trajectories.add(), trajectory)
    return message.SerializeToString()


def _fill(message: pb.Trajectory, trajectory: Trajectory) -> None:
    message.trajectory_id = trajectory.trajectory_id
    message.group_id = trajectory.group_id
    message.sample_index = trajectory.sample_index
    message.token_ids = trajectory.token_ids.astype(TOKEN_DTYPE, copy=False).tobytes()
    message.behaviour_logprobs = trajectory.behaviour_logprobs.astype(LOGPROB_DTYPE, copy=False).tobytes()
    for span in trajectory.spans:
        message.spans.add(version=span.version, begin=span.begin, end=span.end)
    message.finish_reason = _FINISH_TO_PROTO[trajectory.finish_reason]
    message.sampling.MergeFromString(_encoded(trajectory.sampling))
    message.precision.MergeFromString(_encoded(trajectory.precision))
    message.engine = trajectory.engine
    message.engine_version = trajectory.engine_version
    message.replica_id = trajectory.replica_id
    message.timings.first_token_seconds = trajectory.first_token_seconds
    message.timings.total_seconds = trajectory.total_seconds


@lru_cache(maxsize=DISTINCT_KEPT)
def _encoded(parameters: SamplingParameters | Precision) -> bytes:
    return parameters.to_proto().SerializeToString()


def decode_trajectory(message: pb.Trajectory, bounds: TrajectoryBounds, field: str = "trajectory") -> Trajectory:
    """Raises MalformedRecordError; its field is prefixed by `field`."""
    if not message.trajectory_id:
        _refuse(f"{field}.trajectory_id", "must not be empty")
    if not message.group_id:
        _refuse(f"{field}.group_id", "must not be empty")
    token_ids = decode_token_ids(message.token_ids, bounds.vocab_size, f"{field}.token_ids")
    logprobs = _decode_logprobs(message.behaviour_logprobs, len(token_ids), f"{field}.behaviour_logprobs")
    spans = _decode_spans(message, len(token_ids), bounds.newest_version, f"{field}.spans")
    if message.finish_reason not in _FINISH_FROM_PROTO:
        _refuse(f"{field}.finish_reason", f"expected STOP or LENGTH, got {message.finish_reason}")
    try:
        sampling = _decode_sampling(message.sampling.SerializeToString())
        precision = _decode_precision(message.precision.SerializeToString())
    except ValidationError as error:
        first = error.errors()[0]
        section = "precision" if error.title == "Precision" else "sampling"
        _refuse(f"{field}.{section}.{'.'.join(map(str, first['loc']))}", f"{first['msg']}, got {first['input']!r}")
    return Trajectory(
        trajectory_id=message.trajectory_id,
        group_id=message.group_id,
        sample_index=message.sample_index,
        token_ids=token_ids,
        behaviour_logprobs=logprobs,
        spans=spans,
        finish_reason=_FINISH_FROM_PROTO[message.finish_reason],
        sampling=sampling,
        precision=precision,
        engine=message.engine,
        engine_version=message.engine_version,
        replica_id=message.replica_id,
        first_token_seconds=message.timings.first_token_seconds,
        total_seconds=message.timings.total_seconds,
    )


def decode_group(payload: bytes, bounds: TrajectoryBounds) -> ScoredGroup:
    """Raises MalformedRecordError naming the first field that is wrong."""
    try:
        message = pb.ScoredGroup.FromString(payload)
    except DecodeError as error:
        raise MalformedRecordError("group", f"is not a ScoredGroup message: {error}") from error
    if message.schema_version != SCHEMA_VERSION:
        _refuse("schema_version", f"expected {SCHEMA_VERSION}, got {message.schema_version}")
    if not message.group_id:
        _refuse("group_id", "must not be empty")
    if not message.trajectories:
        _refuse("trajectories", "a group needs at least one")
    if len(message.rewards) != len(message.trajectories):
        _refuse(
            "rewards", f"expected one for each of {len(message.trajectories)} trajectories, got {len(message.rewards)}"
        )
    if len(message.answer) > LONGEST_ANSWER:
        _refuse("answer", f"expected up to {LONGEST_ANSWER} characters, got {len(message.answer)}")
    if not np.isfinite(np.array(message.rewards)).all():
        _refuse("rewards", "must be finite")
    trajectories = tuple(
        decode_trajectory(trajectory, bounds, f"trajectories[{index}]")
        for index, trajectory in enumerate(message.trajectories)
    )
    for index, trajectory in enumerate(trajectories):
        if trajectory.group_id != message.group_id:
            _refuse(f"trajectories[{index}].group_id", f"expected {message.group_id!r}, got {trajectory.group_id!r}")
    if len({trajectory.trajectory_id for trajectory in trajectories}) != len(trajectories):
        _refuse("trajectories", "two of them share one trajectory_id")
    return ScoredGroup(
        group_id=message.group_id,
        ordinal=message.ordinal,
        prompt_id=message.prompt_id,
        prompt_token_ids=decode_token_ids(message.prompt_token_ids, bounds.vocab_size, "prompt_token_ids"),
        trajectories=trajectories,
        rewards=tuple(message.rewards),
        task=message.task,
        attempt=message.attempt,
        answer=message.answer,
    )


def decode_token_ids(data: bytes, vocab_size: int, field: str) -> np.ndarray:
    """Packed tokens as int32 [T], T >= 1, each in [0, vocab_size)."""
    if not data or len(data) % TOKEN_DTYPE.itemsize:
        _refuse(field, f"expected a positive multiple of {TOKEN_DTYPE.itemsize} bytes, got {len(data)}")
    token_ids = np.frombuffer(data, dtype=TOKEN_DTYPE)
    if int(token_ids.view(_UNSIGNED_DTYPE).max()) >= vocab_size:  # a negative number is a large one here
        lowest, highest = int(token_ids.min()), int(token_ids.max())
        outside = lowest if lowest < 0 else highest
        _refuse(field, f"token id {outside} is outside the vocabulary of {vocab_size}")
    return token_ids


def _decode_logprobs(data: bytes, tokens: int, field: str) -> np.ndarray:
    if len(data) != tokens * LOGPROB_DTYPE.itemsize:
        _refuse(field, f"expected {tokens} float32 values, one for each token, got {len(data)} bytes")
    logprobs = np.frombuffer(data, dtype=LOGPROB_DTYPE)
    lowest, highest = float(logprobs.min()), float(logprobs.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):  # one NaN makes both NaN
        _refuse(field, "must be finite")
    if highest > 0.0:
        _refuse(field, f"a log-prob cannot be positive, got {highest}")
    return logprobs


def _decode_spans(message: pb.Trajectory, tokens: int, newest: int | None, field: str) -> tuple[PolicySpan, ...]:
    spans: list[PolicySpan] = []
    covered = 0
    previous = 0
    for part in message.spans:
        span = PolicySpan(part.version, part.begin, part.end)
        if span.begin != covered or span.end <= span.begin:
            where = f"{field}[{len(spans)}]"
            _refuse(where, f"expected a non-empty range from token {covered}, got [{span.begin}, {span.end})")
        if newest is not None and span.version > newest:
            where = f"{field}[{len(spans)}].version"
            _refuse(where, f"policy version {span.version} is unknown, the newest is {newest}")
        if span.version < previous:
            where = f"{field}[{len(spans)}].version"
            _refuse(where, f"versions cannot go back, got {span.version} after {previous}")
        covered, previous = span.end, span.version
        spans.append(span)
    if covered != tokens:
        _refuse(field, f"expected spans that cover all {tokens} tokens, they cover {covered}")
    return tuple(spans)


@lru_cache(maxsize=DISTINCT_KEPT)
def _decode_sampling(data: bytes) -> SamplingParameters:
    return SamplingParameters.from_proto(pb.SamplingParameters.FromString(data))


@lru_cache(maxsize=DISTINCT_KEPT)
def _decode_precision(data: bytes) -> Precision:
    return Precision.from_proto(pb.Precision.FromString(data))


def _refuse(field: str, reason: str) -> NoReturn:
    raise MalformedRecordError(field, reason)
