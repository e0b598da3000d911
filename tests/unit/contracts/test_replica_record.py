"""A replica's record says what a replica can be, or is refused with the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.contracts.registry import ReplicaRecord, StrayRecordError, decode_record
from ais.contracts.sampling import Precision

GOOD: dict[str, Any] = {
    "replica_id": "a",
    "grpc_address": "127.0.0.1:50051",
    "http_url": "http://127.0.0.1:8000",
    "engine": "torch",
    "precision": Precision().model_dump(),
    "model_type": "qwen3",
    "vocab_size": 22,
    "parameter_count": 100,
    "policy_version": 3,
    "policy_digest": "blake3:0",
    "ready": True,
    "slots": 8,
    "running_sequences": 0,
    "waiting_sequences": 0,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slots", 0), ("slots", -1), ("slots", 10**12), ("slots", "many"), ("vocab_size", 0),
        ("running_sequences", -1), ("waiting_sequences", 10**30), ("policy_version", -1), ("policy_version", 2**53),
        ("policy_version", 1.5), ("parameter_count", 10**40), ("ready", "perhaps"), ("replica_id", ""),
        ("replica_id", "a\nb"), ("replica_id", "x" * 300), ("policy_digest", "\x1b[2J"), ("engine", "e" * 300),
        ("grpc_address", "127.0.0.1:99999"), ("grpc_address", "127.0.0.1:0"), ("grpc_address", "127.0.0.1"),
        ("grpc_address", "unix:/run/x"), ("grpc_address", "a b:1"), ("grpc_address", "[::1:50051"),
        ("http_url", "http://127.0.0.1:99999"), ("http_url", "http://127.0.0.1:0"), ("http_url", "ftp://127.0.0.1:1"),
        ("http_url", "http://"), ("http_url", "http://[::1:8000"), ("http_url", "http://user:word@127.0.0.1:1"),
        ("http_url", "file:///etc/passwd"), ("precision", {"weights": "fp3"}), ("precision", None),
        ("probe_gap", -0.1), ("probe_gap", "wide"), ("probe_allowed", 1e999),
    ],
)  # fmt: skip
def test_what_no_replica_can_be_is_refused_with_its_field(field: str, value: object) -> None:
    with pytest.raises(StrayRecordError, match=field):
        decode_record(b"a", json.dumps(GOOD | {field: value}).encode())


@pytest.mark.parametrize("address", ["replica-0.ais:50051", "10.0.0.7:1", "[::1]:65535", "[fe80::1%eth0]:50051"])
def test_addresses_of_every_spelling_are_taken(address: str) -> None:
    value = json.dumps(GOOD | {"grpc_address": address, "http_url": f"http://{address.replace('%', '%25')}"}).encode()
    assert decode_record(b"a", value).grpc_address == address


def test_a_record_of_a_newer_release_with_more_fields_is_taken() -> None:
    assert decode_record(b"a", json.dumps(GOOD | {"colour": "blue"}).encode()) == ReplicaRecord(**GOOD)


def test_a_record_larger_than_any_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(StrayRecordError, match="bytes"):
        decode_record(b"a", json.dumps(GOOD | {"padding": "x" * 5_000_000}).encode())


@given(name=st.binary(max_size=20), value=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_not_crashed_on(name: bytes, value: bytes) -> None:
    with pytest.raises(StrayRecordError) as refused:
        decode_record(name, value)
    assert len(str(refused.value)) < 1_000


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), JSON, min_size=1, max_size=4))
def test_a_record_with_any_values_is_refused_or_one_that_can_be_worked_with(changed: dict[str, object]) -> None:
    try:
        record = decode_record(b"a", json.dumps(GOOD | changed).encode())
    except StrayRecordError:
        return
    assert record.replica_id == "a"
    assert record.slots >= 1
    assert 1 <= int(record.grpc_address.rpartition(":")[2]) <= 65_535
    assert 0 <= record.policy_version < 2**53
