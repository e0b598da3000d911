"""What services share in Redis beside the queue: events, replicas' records, evaluations."""

from __future__ import annotations

from ais.contracts.evaluation.board import decode_result
from ais.contracts.evaluation.results import Estimate, EvaluationResult, SourceScore
from ais.contracts.events import (
    Discarded,
    EventOrder,
    Finished,
    Position,
    Resumed,
    StrayEventError,
    Told,
    VersionPublished,
)
from ais.contracts.registry import ReplicaRecord, StrayRecordError, decode_record
from ais.contracts.sampling import Precision
from benchmarks.fuzz.target import Target, Targets, content_of, fields_of

POSITION = {b"incarnation": b"3", b"version": b"7", b"digest": b"blake3:7", b"finished": b"0", b"newest": b"9"}
_EVENTS = (VersionPublished(7, "blake3:7"), Resumed(5, "blake3:5"), Discarded(40, "stale"), Finished(7))


def read_event(content: bytes) -> None:
    """Fields before the byte 0x1d are the position's, those behind it an event's."""
    position, _, event = content.partition(b"\x1d")
    EventOrder().check(Told.of(fields_of(event)), Position.of(fields_of(position)))


def _event(told: Told) -> bytes:
    fields = {str(name).encode(): str(value).encode() for name, value in told.fields().items()}
    return content_of(POSITION) + b"\x1d" + content_of(fields)


RECORD = ReplicaRecord(
    replica_id="replica",
    grpc_address="[::1]:50051",
    http_url="http://10.0.0.7:8000",
    engine="torch",
    precision=Precision(),
    model_type="qwen3",
    vocab_size=23,
    parameter_count=1,
    policy_version=7,
    policy_digest="blake3:7",
    ready=True,
    slots=1,
    running_sequences=0,
    waiting_sequences=0,
)
_ESTIMATE = Estimate(mean=0.5, interval=0.1)
RESULT = EvaluationResult(
    step=7,
    first_version=7,
    last_version=7,
    precision="bf16",
    time=1.0,
    seconds=1.0,
    sources=(
        SourceScore(
            source="sort",
            prompts=4,
            unanswered=0,
            samples=1,
            reward=_ESTIMATE,
            passed={1: _ESTIMATE},
            components={"sorted": _ESTIMATE},
            response_length_mean=4.0,
            truncated_share=0.0,
        ),
    ),
)


def read_record(content: bytes) -> None:
    decode_record(b"replica", content)


def read_evaluation(content: bytes) -> None:
    result = decode_result(b"7", content)
    for metric in ("reward_mean", "pass@1", "sort/reward_mean"):
        result.value(metric)


TARGETS: Targets = {
    "event": Target(read_event, (StrayEventError,), tuple(_event(Told(3, event)) for event in _EVENTS)),
    "record": Target(read_record, (StrayRecordError,), (RECORD.model_dump_json().encode(),)),
    "evaluation": Target(read_evaluation, (ValueError,), (RESULT.model_dump_json().encode(),)),
}
