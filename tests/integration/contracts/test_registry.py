"""Who is alive, on a real Valkey server."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from tests.support.records import replica_record


def record(replica_id: str, version: int = 0) -> ReplicaRecord:
    return replica_record(
        replica_id, http_url="http://127.0.0.1:2", engine="torch", parameter_count=100, policy_version=version, slots=8
    )


async def test_the_newest_record_of_each_live_replica_is_listed(redis: Redis, keys: Keys) -> None:
    registry = ReplicaRegistry(redis, keys)
    await registry.heartbeat(record("b"))
    await registry.heartbeat(record("a"))
    await registry.heartbeat(record("b", version=2))
    assert await registry.replicas() == [record("a"), record("b", version=2)]


async def test_a_replica_that_stops_its_heartbeat_is_forgotten(redis: Redis, keys: Keys) -> None:
    registry = ReplicaRegistry(redis, keys)
    await registry.heartbeat(record("a"))
    await redis.pexpire(keys.replica("a"), 0)
    assert await registry.replicas() == []
    assert await redis.smembers(keys.replicas) == set()


async def test_a_record_expires_by_itself(redis: Redis, keys: Keys) -> None:
    await ReplicaRegistry(redis, keys).heartbeat(record("a"))
    assert 0 < await redis.pttl(keys.replica("a")) <= 5000


async def test_a_replica_that_leaves_is_gone_at_once(redis: Redis, keys: Keys) -> None:
    registry = ReplicaRegistry(redis, keys)
    await registry.heartbeat(record("a"))
    await registry.leave("a")
    assert await registry.replicas() == []


async def test_a_fault_of_one_replica_is_that_replicas_and_is_logged_once(
    redis: Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    registry = ReplicaRegistry(redis, keys)
    await registry.heartbeat(record("a"))
    for name in (b"\xff\xfe\x00", b"", b"bin\nary\x1b[2J"):
        await redis.sadd(keys.replicas, name)
        await redis.set(keys.replica("").encode() + name, b"\xff" * 40)
    await redis.sadd(keys.replicas, "port")
    for beat in range(20):
        spoiled = record("port").model_dump() | {"grpc_address": "127.0.0.1:99999", "running_sequences": beat}
        await redis.set(keys.replica("port"), json.dumps(spoiled))
        assert await registry.replicas() == [record("a")]
    assert len(caplog.records) == 4
    assert all(line.getMessage().isprintable() for line in caplog.records)


async def test_a_name_without_a_record_is_forgotten_even_where_it_is_no_text(redis: Redis, keys: Keys) -> None:
    await redis.sadd(keys.replicas, b"\xff\xfe")
    await redis.rpush(keys.replica("").encode() + b"\xff\xfe", "a list where a record should be")
    assert await ReplicaRegistry(redis, keys).replicas() == []
    assert await redis.smembers(keys.replicas) == set()


async def test_a_record_under_another_replicas_name_is_left_out(redis: Redis, keys: Keys) -> None:
    registry = ReplicaRegistry(redis, keys)
    await registry.heartbeat(record("a"))
    await redis.sadd(keys.replicas, "copy")
    await redis.copy(keys.replica("a"), keys.replica("copy"))
    assert await registry.replicas() == [record("a")]


async def test_a_record_that_is_not_understood_is_left_out(redis: Redis, keys: Keys) -> None:
    registry = ReplicaRegistry(redis, keys)
    await registry.heartbeat(record("a"))
    await redis.sadd(keys.replicas, "alien")
    await redis.set(keys.replica("alien"), '{"replica_id": "alien"}')
    assert await registry.replicas() == [record("a")]
