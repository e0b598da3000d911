"""The group reader when the connection to the queue breaks at the worst moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.trajectory import encode_group
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings, RunSettings
from ais.runtime.tasks import end_tasks
from ais.trainer.groups.intake import Intake
from ais.trainer.groups.reader import GroupReader, no_hidden_retries
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.settings import Settings, TrainerSettings
from tests.support.trainer_groups import make_group


class AnswerLosingProxy:
    """Forwards to the server, and cuts the connection in the place of the first answer that carries groups."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self.lost = 0

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        requests = asyncio.create_task(self._forward(client, to_upstream))
        while data := await upstream.read(1 << 20):
            if b"ordinal" in data and not self.lost:
                self.lost += 1
                break
            to_client.write(data)
        await end_tasks(requests)
        to_client.close()
        to_upstream.close()

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 20):
            target.write(data)
        target.close()


async def test_groups_whose_answer_was_lost_are_found_again(redis: Redis, redis_url: str, keys: Keys) -> None:
    run = RunSettings(groups_per_batch=3, samples_per_group=4)
    collector = TrajectoryQueue(redis, keys)
    await collector.prepare()
    proxy = AnswerLosingProxy(urlsplit(redis_url).port or 0)
    async with proxy.listen() as port:
        reading = await connect(RedisSettings(url=f"redis://127.0.0.1:{port}/0"))
        no_hidden_retries(reading)
        intake = Intake(run, vocab_size=22, context_length=64)
        settings = Settings(run=run, trainer=TrainerSettings(redis_patience_seconds=10))
        reader = GroupReader(TrajectoryQueue(reading, keys), intake, TrainerMetrics(CollectorRegistry()), settings)
        task = asyncio.create_task(reader.run())
        for ordinal in range(3):
            await collector.publish(ordinal, encode_group(make_group(ordinal)))
        async with asyncio.timeout(10):
            await reader.batch_arrived()
        await end_tasks(task)
        await reading.aclose()
    assert proxy.lost == 1
    assert [item.group.ordinal for item in intake.take()] == [0, 1, 2]
