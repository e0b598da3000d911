"""Services of adjacent releases read each other: docs/operations.md, "Upgrading"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from ais.contracts.evaluation.results import EvaluationResult
from ais.contracts.events import Discarded, Event, Finished, Resumed, Told, VersionPublished
from ais.contracts.registry import ReplicaRecord
from ais.contracts.sampling import Precision, SamplingParameters
from ais.contracts.trajectory import (
    MalformedRecordError,
    PolicySpan,
    ScoredGroup,
    TrajectoryBounds,
    decode_group,
    decode_trajectory,
    encode_group,
    encode_trajectory,
)
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.contracts.weights.offer import Missing, MissingShard, Offer, WeightsStatus
from tests.support.records import evaluation_result, replica_record, trajectory_of

EARLIER = json.loads(Path(__file__).with_name("earlier_release.json").read_text())
"""Written by the code of commit b4ddace, before trajectories had turns: hexadecimal protobuf, JSON, stream fields."""
BOUNDS = TrajectoryBounds(vocab_size=10, newest_version=7)
MODELS: dict[str, type[BaseModel]] = {
    "replica": ReplicaRecord,
    "offer": Offer,
    "missing": Missing,
    "status": WeightsStatus,
}
EVENTS: list[Event] = [
    Resumed(5, "blake3:5"),
    VersionPublished(6, "blake3:6"),
    Discarded(9, "rewards: too many"),
    Finished(7),
]


def group() -> ScoredGroup:
    """What was written then."""
    first = trajectory_of(
        [3, 4, 5, 2],
        "group-9",
        0,
        [-0.5, -0.25, -1.0, -0.125],
        spans=(PolicySpan(6, 0, 2, "blake3:6"), PolicySpan(7, 2, 4, "blake3:7")),
        sampling=SamplingParameters(temperature=0.5, max_new_tokens=8, stop_token_ids=(2,), seed=11),
        precision=Precision(weights="e4m3", granularity="channel", activations="e4m3"),
    )
    return ScoredGroup(
        group_id="group-9",
        ordinal=9,
        prompt_id="prompt",
        prompt_token_ids=np.arange(4, dtype=np.int32),
        trajectories=(first, trajectory_of([7, 2], "group-9", 1)),
        rewards=(1.0, 0.0),
        task="sort",
        attempt=2,
        answer="12",
        redraw=1,
    )


def stream_fields(fields: dict[str, Any]) -> dict[bytes, bytes]:
    return {name.encode(): str(value).encode() for name, value in fields.items()}


def test_a_group_of_the_release_before_is_read_and_ours_is_the_same_to_the_byte() -> None:
    written = bytes.fromhex(EARLIER["group"])
    read = decode_group(written, BOUNDS)
    assert (read.ordinal, read.rewards, read.answer, read.redraw) == (9, (1.0, 0.0), "12", 1)
    assert [one.turns for one in read.trajectories] == [(), ()]
    assert [span.version for span in read.trajectories[0].spans] == [6, 7]
    assert encode_group(group()) == written


def test_a_response_of_a_replica_of_the_release_before_is_read_and_ours_is_the_same_to_the_byte() -> None:
    written = bytes.fromhex(EARLIER["trajectory"])
    read = decode_trajectory(pb.Trajectory.FromString(written), BOUNDS)
    assert read.token_ids.tolist() == [3, 4, 5, 2]
    assert read.sampling == group().trajectories[0].sampling
    assert encode_trajectory(group().trajectories[0]).SerializeToString() == written


@pytest.mark.parametrize("name", MODELS)
def test_a_message_of_the_release_before_is_read_and_says_the_same_as_ours(name: str) -> None:
    read = MODELS[name].model_validate(EARLIER[name])
    assert json.loads(read.model_dump_json()).items() >= EARLIER[name].items()
    ours = {"replica": replica_record(policy_version=7), "missing": Missing(shards=(MissingShard(index=0, offset=3),))}
    assert name not in ours or read == ours[name]


def test_events_of_the_release_before_are_read_and_ours_are_the_same() -> None:
    assert [Told.of(stream_fields(fields)).event for fields in EARLIER["events"]] == EVENTS
    assert [Told(2, event).fields() for event in EVENTS] == EARLIER["events"]


def test_an_evaluation_of_the_release_before_is_read() -> None:
    assert EvaluationResult.model_validate(EARLIER["evaluation"]) == evaluation_result(3, sort=0.5)


# Of the release after this one: a field that is not known yet.


@pytest.mark.parametrize("name", MODELS)
def test_a_field_that_a_later_release_adds_to_a_message_is_left_alone(name: str) -> None:
    assert MODELS[name].model_validate(EARLIER[name] | {"of_tomorrow": [1]}) == MODELS[name].model_validate(
        EARLIER[name]
    )


def test_a_format_that_a_later_release_adds_to_a_replicas_precision_is_left_alone() -> None:
    record = EARLIER["replica"]
    of_tomorrow = record | {"precision": record["precision"] | {"of_tomorrow": "e3m4"}}
    assert ReplicaRecord.model_validate(of_tomorrow) == ReplicaRecord.model_validate(record)


@pytest.mark.parametrize("used", [False, True])
def test_what_is_new_of_a_precision_is_written_where_it_is_used(used: bool) -> None:
    record = replica_record(precision=Precision(float32_head=used))
    assert ("float32_head" in json.loads(record.model_dump_json())["precision"]) == used
    assert ReplicaRecord.model_validate_json(record.model_dump_json()) == record


def test_a_field_that_a_later_release_adds_to_a_group_or_an_event_is_left_alone() -> None:
    unknown = bytes([0xF8, 0x07, 0x01])  # field 127, a number
    read = decode_group(bytes.fromhex(EARLIER["group"]) + unknown, BOUNDS)
    assert encode_group(read) == bytes.fromhex(EARLIER["group"])
    told = Told.of(stream_fields(EARLIER["events"][1] | {"of_tomorrow": 1}))
    assert told.event == EVENTS[1]


def test_what_would_be_misread_is_refused_by_its_field() -> None:
    message = pb.ScoredGroup.FromString(bytes.fromhex(EARLIER["group"]))
    message.schema_version = 6
    with pytest.raises(MalformedRecordError, match="schema_version"):
        decode_group(message.SerializeToString(), BOUNDS)
    with pytest.raises(ValidationError, match="of_tomorrow"):
        EvaluationResult.model_validate(EARLIER["evaluation"] | {"of_tomorrow": 1})
