"""What trajectories travel in: requests, trajectories, groups, and the entries of the queue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from google.protobuf.message import DecodeError

from ais.collector.replicas.answers import Question
from ais.contracts.dead_letters import DeadLetter
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.reward_components import JudgementFailure, RewardComponent
from ais.contracts.routing.routed import RoutedExperts
from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import (
    MalformedRecordError,
    PolicySpan,
    ScoredGroup,
    Trajectory,
    TrajectoryBounds,
    decode_group,
    decode_trajectory,
    encode_group,
    encode_trajectory,
)
from ais.contracts.truncation.kept import KeptTokens
from ais.contracts.turns import Turn
from ais.contracts.v1 import rollout_pb2
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.rollout.engine import InvalidRequestError
from ais.rollout.generation_api import decode_request
from ais.runtime.settings import RunSettings
from ais.trainer.groups.intake import Intake
from benchmarks.fuzz.target import Target, Targets, content_of, fields_of

VOCABULARY = 151_936
BOUNDS = TrajectoryBounds(VOCABULARY, 7)
SAMPLING = SamplingParameters(max_new_tokens=64, seed=7, stop_token_ids=(1, 2))


def _trajectory(index: int, turns: tuple[Turn, ...] = (), cut: bool = False, read: int = 0) -> Trajectory:
    return Trajectory(
        trajectory_id=f"group/{index}",
        group_id="group",
        sample_index=index,
        token_ids=np.arange(5, 11, dtype=np.int32),
        behaviour_logprobs=np.linspace(-3, 0, 6, dtype=np.float32),
        spans=(PolicySpan(0, 0, 2, "blake3:0"), PolicySpan(1, 2, 6, "blake3:1")),
        finish_reason=FinishReason.STOP,
        sampling=SAMPLING,
        precision=Precision(),
        engine="torch",
        engine_version="1",
        replica_id="replica",
        first_token_seconds=0.1,
        total_seconds=0.5,
        turns=turns,
        kept=KeptTokens.of([np.arange(20, 20 + others, dtype=np.int32) for others in (0, 1, 2, 0, 3, 1)])
        if cut
        else None,
        routed=RoutedExperts(np.tile(np.arange(2, dtype=np.uint8), (read, 3, 1)), 8) if read else None,
    )


def _group(*trajectories: Trajectory) -> ScoredGroup:
    failure = JudgementFailure(0, "overtime", "judging took longer than 10 s")
    return ScoredGroup(
        group_id="group",
        ordinal=40,
        prompt_id="prompt",
        prompt_token_ids=np.arange(3, 9, dtype=np.int32),
        trajectories=trajectories,
        rewards=tuple(0.5 for _ in trajectories),
        task="sort",
        attempt=1,
        answer="1 2 3",
        components=(RewardComponent("sorted", 1.0, tuple(0.5 for _ in trajectories), (failure,)),),
    )


_TURNS = (
    Turn(np.array([], dtype=np.int32), 2, FinishReason.STOP, 64, 3),
    Turn(np.array([8, 9], dtype=np.int32), 4, FinishReason.STOP, 64, None),
)
SINGLE = encode_group(_group(_trajectory(0), _trajectory(1)))
TRUNCATED = encode_group(_group(_trajectory(0, cut=True)))
EPISODE = encode_group(_group(_trajectory(0, _TURNS)))
MIXED = encode_group(_group(_trajectory(0, read=11)))
BEGUN_ANEW = encode_group(_group(_trajectory(0, (_TURNS[0], replace(_TURNS[1], begins_anew=True)))))


def read_group(content: bytes) -> None:
    """What is taken is written again as it was understood."""
    group = decode_group(content, BOUNDS)
    again = encode_group(decode_group(encode_group(group), BOUNDS))
    assert again == encode_group(group)
    for one in group.trajectories:
        sampled = [read.text_token_ids[read.sampled] for read in one.passages(group.prompt_token_ids)]
        assert np.array_equal(np.concatenate(sampled), one.token_ids)


def read_trajectory(content: bytes) -> None:
    """As the collector reads what a replica sends."""
    trajectory = decode_trajectory(pb.Trajectory.FromString(content), BOUNDS)
    assert len(trajectory.sampled) == len(trajectory.text_token_ids)
    Question("group", 8, SAMPLING).check(trajectory, {1})


def read_request(content: bytes) -> None:
    decode_request(rollout_pb2.GenerateRequest.FromString(content), VOCABULARY)


def read_entry(content: bytes) -> None:
    """As the trainer reads its queue, and a person the dead letters."""
    fields = fields_of(content)
    (entry,) = TrajectoryQueue._entries([(b"stream", [(b"1-1", fields)])])
    Intake(RunSettings(groups_per_batch=8), VOCABULARY, context_length=64, version=5).judge(entry)
    letter = DeadLetter(fields.get(b"entry", b"").decode(errors="replace"), "", entry.ordinal, "", entry.payload)
    assert letter.time is None or letter.time.year > 0
    assert letter.message() is None or letter.message()
    letter.fault()


_REQUEST = rollout_pb2.GenerateRequest(
    group_id="group",
    prompt_token_ids=np.arange(3, 9, dtype="<i4").tobytes(),
    samples=8,
    sampling=SAMPLING.to_proto(),
)

TARGETS: Targets = {
    "group": Target(read_group, (MalformedRecordError,), (SINGLE, EPISODE, TRUNCATED, BEGUN_ANEW, MIXED)),
    "trajectory": Target(
        read_trajectory,
        (MalformedRecordError, DecodeError),  # gRPC takes the second one for us
        tuple(
            encode_trajectory(one).SerializeToString()
            for one in (_trajectory(0), _trajectory(0, _TURNS), _trajectory(0, cut=True), _trajectory(0, read=11))
        ),
    ),
    "request": Target(
        read_request, (MalformedRecordError, InvalidRequestError, DecodeError), (_REQUEST.SerializeToString(),)
    ),
    "entry": Target(
        read_entry,
        (),
        tuple(
            content_of({b"entry": b"1-1", b"ordinal": b"40", b"group": group}) for group in (SINGLE, EPISODE, TRUNCATED)
        ),
    ),
}
