"""Redis goes away and comes back: nothing that was answered is lost, nothing comes twice, and who needs it waits."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, RedisError

from ais.contracts.keys import Keys
from ais.contracts.queue import Entry, TrajectoryQueue
from ais.runtime.network.patience import persist
from ais.runtime.network.redis import connect, is_away
from ais.runtime.settings import RedisSettings
from ais.trainer.groups.reader import no_hidden_retries
from tests.support.valkey_process import ValkeyProcess

ENTRIES_LOADED = 1500
PUBLISHER = Path(__file__).with_name("publisher_process.py")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyProcess]:
    directory = tmp_path / "valkey"
    directory.mkdir()
    with ValkeyProcess(directory) as server:
        yield server


@pytest.fixture
async def client(server: ValkeyProcess) -> AsyncIterator[Redis]:
    client = await connect(RedisSettings(url=server.url))
    yield client
    await client.aclose()


class Publishers:
    """Real processes that publish; `answered` are the ordinals whose publish was answered."""

    def __init__(self) -> None:
        self.answered: list[int] = []
        self._changed = asyncio.Condition()

    async def run(self, url: str, run: str, begin: int, end: int) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PUBLISHER), url, run, str(begin), str(end)), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                async with self._changed:
                    self.answered.append(int(line))
                    self._changed.notify_all()
            assert await process.wait() == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def answered_at_least(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.answered) >= count)


class Reader:
    """Reads as the trainer does, and acknowledges every second entry at once."""

    def __init__(self, queue: TrajectoryQueue) -> None:
        self._queue = queue
        self.seen: dict[str, int] = {}
        """Ordinal of each entry."""
        self.acknowledged: set[str] = set()
        self.came_back: list[str] = []
        """Acknowledged entries that were handed out once more."""
        self.acknowledged_before: set[int] = set()
        """Ordinals that another entry came of when the first had been acknowledged."""

    async def until(self, count: int) -> None:
        while len(self.seen) < count:
            try:
                await self._take(await self._queue.read(16, 0.2))
            except RedisError as error:
                if not is_away(error):
                    raise
                await self._take(await persist(partial(self._queue.read_pending, 10_000), 30))

    async def _take(self, entries: list[Entry]) -> None:
        self.came_back += [entry.entry_id for entry in entries if entry.entry_id in self.acknowledged]
        known = {self.seen[entry_id] for entry_id in self.acknowledged}
        self.acknowledged_before |= {entry.ordinal for entry in entries if entry.ordinal in known}
        self.seen |= {entry.entry_id: int(entry.payload.split(b" ")[0]) for entry in entries}
        done = {entry.entry_id: entry.ordinal for entry in entries if entry.ordinal % 2}
        await persist(partial(self._queue.acknowledge, done), 30)
        self.acknowledged |= done.keys()


async def test_what_was_answered_survives_kills_of_the_server_in_mid_traffic(
    server: ValkeyProcess, client: Redis, keys: Keys
) -> None:
    total, kills = 1200, 3
    await TrajectoryQueue(client, keys).prepare()
    reading = await connect(RedisSettings(url=server.url))
    no_hidden_retries(reading)
    publishers, reader = Publishers(), Reader(TrajectoryQueue(reading, keys))
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for begin in (0, total // 2):
            tasks.create_task(publishers.run(server.url, keys.run, begin, begin + total // 2))
        tasks.create_task(reader.until(total))
        for kill in range(1, kills + 1):
            await publishers.answered_at_least(kill * total // (kills + 1))
            server.kill()
            server.start()
    assert sorted(publishers.answered) == list(range(total))
    assert set(reader.seen.values()) == set(range(total))
    twice = {ordinal for ordinal, count in Counter(reader.seen.values()).items() if count > 1}
    assert twice <= reader.acknowledged_before  # the answer to its publish was lost; the trainer drops the second
    assert reader.came_back == []
    left = await TrajectoryQueue(client, keys).read_pending(total)
    assert sorted(entry.ordinal for entry in left) == list(range(0, total, 2))
    await reading.aclose()


async def test_a_server_that_still_loads_its_data_is_waited_for(
    server: ValkeyProcess, client: Redis, keys: Keys
) -> None:
    queue = TrajectoryQueue(client, keys)
    await queue.prepare()
    for begin in range(0, ENTRIES_LOADED, 100):  # while it loads, it looks at its clients every 1024 commands
        await asyncio.gather(*(queue.publish(ordinal, b"x") for ordinal in range(begin, begin + 100)))
    server.kill()
    server.start("--key-load-delay", "200")
    await until_it_says_loading(server)
    newcomer = await connect(RedisSettings(url=server.url))
    await newcomer.aclose()
    assert not await persist(partial(queue.publish, 3, b"again"), 30)
    assert await queue.depth() == ENTRIES_LOADED


async def until_it_says_loading(server: ValkeyProcess) -> None:
    impatient = Redis.from_url(server.url, protocol=2)
    async with asyncio.timeout(10), contextlib.aclosing(impatient):
        while True:
            try:
                await impatient.ping()
            except BusyLoadingError:
                return
            except RedisError:
                await asyncio.sleep(0.01)


async def read_only(client: Redis, tmp_path: Path) -> None:
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")


async def leads_again(client: Redis) -> None:
    await client.execute_command("REPLICAOF", "NO", "ONE")


async def full(client: Redis, tmp_path: Path) -> None:
    await client.config_set("maxmemory", "1mb")


async def roomy(client: Redis) -> None:
    await client.config_set("maxmemory", "0")


async def cannot_save(client: Redis, tmp_path: Path) -> None:
    (tmp_path / "valkey" / "dump.rdb").mkdir()  # in the place of the file
    await client.config_set("save", "3600 1")
    await client.bgsave()
    async with asyncio.timeout(10):
        while (await client.info("persistence"))["rdb_last_bgsave_status"] != "err":
            await asyncio.sleep(0.01)


async def writes_all_the_same(client: Redis) -> None:
    await client.config_set("stop-writes-on-bgsave-error", "no")


async def alone(client: Redis, tmp_path: Path) -> None:
    await client.config_set("min-replicas-to-write", "1")


async def alone_and_content(client: Redis) -> None:
    await client.config_set("min-replicas-to-write", "0")


@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [(read_only, leads_again), (full, roomy), (cannot_save, writes_all_the_same), (alone, alone_and_content)],
    ids=["READONLY", "OOM", "MISCONF", "NOREPLICAS"],
)
async def test_a_server_that_takes_no_writes_is_waited_for(
    client: Redis,
    keys: Keys,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    break_it: Callable[[Redis, Path], Awaitable[None]],
    mend_it: Callable[[Redis], Awaitable[None]],
) -> None:
    queue = TrajectoryQueue(client, keys)
    await queue.prepare()
    await break_it(client, tmp_path)
    publishing = asyncio.create_task(persist(partial(queue.publish, 0, bytes(2_000_000)), None))
    async with asyncio.timeout(10):
        while "Redis does not answer, trying again" not in caplog.text:
            assert not publishing.done() or publishing.result() is None
            await asyncio.sleep(0.01)
    await mend_it(client)
    assert await asyncio.wait_for(publishing, 20)
    assert await queue.depth() == 1
