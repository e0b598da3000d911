"""The collector's connections, when its certificate is renewed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.collector.announced import Announced
from ais.collector.metrics import CollectorMetrics
from ais.collector.replicas.dispatch import Dispatcher
from ais.collector.replicas.fleet import Fleet, Links
from ais.collector.replicas.proof import Expected
from ais.issuing.authority import Issued
from ais.runtime.security.certificates import CERTIFICATE, KEY, Certificates
from ais.runtime.security.keyring import Credential
from ais.runtime.tasks import end_tasks
from tests.support.access.deployment import certificates, expired, valid, written
from tests.support.replicas.scripted_replicas import MODEL, Stage, honest


def fleet_of(stage: Stage, run_name: str, own: Path) -> Fleet:
    return Fleet(
        stage.registry,
        Links(False, 100, Credential(None, Certificates(own))),
        Expected(run_name, MODEL),
        Announced(),
        Dispatcher(2.0),
        CollectorMetrics(CollectorRegistry()),
        changed=lambda: None,
    )


def renew(own: Path, issued: Issued) -> None:
    (own / KEY).write_text(issued.key)
    (own / CERTIFICATE).write_text(issued.certificate)


async def test_the_collector_connects_anew_when_its_certificate_has_changed(
    redis: Redis, run_name: str, tmp_path: Path
) -> None:
    """A gRPC channel keeps the certificate that it was opened with."""
    stage, own = Stage(redis, run_name), written(tmp_path, valid("collector"))
    fleet = fleet_of(stage, run_name, own)
    async with stage.replica("replica", honest, certificates=certificates("rollout")), asyncio.timeout(20):
        following = asyncio.create_task(fleet.follow())
        while not fleet.replicas:
            await asyncio.sleep(0.02)
        (replica,) = fleet.replicas
        first = fleet.client(replica)
        assert (await first.describe(5.0)).replica_id == "replica"
        renew(own, valid("collector"))
        while fleet.client(replica) is first:
            await asyncio.sleep(0.02)
        assert (await fleet.client(replica).describe(5.0)).replica_id == "replica"
        await end_tasks(following)
        await fleet.close()


async def test_whoever_chooses_while_the_collector_connects_anew_finds_the_replica(
    redis: Redis, run_name: str, tmp_path: Path
) -> None:
    """Its certificate has expired, so the replica is asked again and again what it is; then there is a new one."""
    stage, own = Stage(redis, run_name), written(tmp_path, expired("collector"))
    fleet = fleet_of(stage, run_name, own)

    async def choose() -> None:
        while True:
            fleet.choose(1, 0, 0, None, (), waiting=1)
            await asyncio.sleep(0)

    async with stage.replica("replica", honest, certificates=certificates("rollout")), asyncio.timeout(20):
        following = asyncio.create_task(fleet.follow())
        while not fleet.replicas:
            await asyncio.sleep(0.02)
        (replica,), choosing = fleet.replicas, asyncio.create_task(choose())
        try:
            first = fleet.client(replica)
            renew(own, valid("collector"))
            while not choosing.done() and fleet.client(replica) is first:
                await asyncio.sleep(0.02)
            assert not choosing.done()
            assert (await fleet.client(replica).describe(5.0)).replica_id == "replica"
        finally:
            await end_tasks(choosing, following)
            await fleet.close()
