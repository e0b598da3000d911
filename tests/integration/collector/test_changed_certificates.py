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
from ais.runtime.security.certificates import CERTIFICATE, KEY, Certificates
from ais.runtime.security.keyring import Credential
from ais.runtime.tasks import end_tasks
from tests.support.access.deployment import certificates, valid, written
from tests.support.replicas.scripted_replicas import MODEL, Stage, honest


async def test_the_collector_connects_anew_when_its_certificate_has_changed(
    redis: Redis, run_name: str, tmp_path: Path
) -> None:
    """A gRPC channel keeps the certificate that it was opened with."""
    stage, own = Stage(redis, run_name), written(tmp_path, valid("collector"))
    fleet = Fleet(
        stage.registry,
        Links(False, 100, Credential(None, Certificates(own))),
        Expected(run_name, MODEL),
        Announced(),
        Dispatcher(2.0),
        CollectorMetrics(CollectorRegistry()),
        changed=lambda: None,
    )
    async with stage.replica("replica", honest, certificates=certificates("rollout")), asyncio.timeout(20):
        following = asyncio.create_task(fleet.follow())
        while not fleet.replicas:
            await asyncio.sleep(0.02)
        (replica,) = fleet.replicas
        first, issued = fleet.client(replica), valid("collector")
        assert (await first.describe(5.0)).replica_id == "replica"
        (own / KEY).write_text(issued.key)
        (own / CERTIFICATE).write_text(issued.certificate)
        while fleet.client(replica) is first:
            await asyncio.sleep(0.02)
        assert (await fleet.client(replica).describe(5.0)).replica_id == "replica"
        await end_tasks(following)
        await fleet.close()
