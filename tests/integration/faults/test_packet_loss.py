"""One packet in a hundred is lost, ten milliseconds each way: a real link, the kernel's TCP at both ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.launcher.processes.commands import valkey
from ais.runtime.network.patience import persist
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings

LOSS, DELAY_SECONDS = 0.01, 0.01
PORT = 6379
GROUPS, GROUP_BYTES = 60, 100_000
DEADLINE_SECONDS = 5.0

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists() or shutil.which("ip") is None,
    reason="network namespaces and TUN devices need root, /dev/net/tun and iproute2",
)


@dataclass(frozen=True)
class FarServer:
    """A Valkey server behind the link."""

    url: str
    link: subprocess.Popen[str]

    def lost_packets(self) -> int:
        """Ends the link."""
        assert self.link.stdin is not None
        assert self.link.stdout is not None
        self.link.stdin.close()
        return int(self.link.stdout.readline())


@pytest.fixture
def far_server(tmp_path: Path) -> Iterator[FarServer]:
    namespace = f"ais-{uuid.uuid4().hex[:8]}"
    made = subprocess.run(["ip", "netns", "add", namespace], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    link = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("lossy_link.py")), namespace, str(LOSS), str(DELAY_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    server = None
    try:
        assert link.stdout is not None
        _here, there = link.stdout.readline().split()
        arguments = (*valkey(tmp_path, PORT).arguments, "--bind", there, "--protected-mode", "no")
        server = subprocess.Popen(["ip", "netns", "exec", namespace, *arguments], stdout=subprocess.DEVNULL)
        yield FarServer(f"redis://{there}:{PORT}/0", link)
    finally:
        for process in filter(None, (server, link)):
            process.kill()
            process.wait()
        subprocess.run(["ip", "netns", "delete", namespace], check=False)


@pytest.fixture
async def far_redis(far_server: FarServer) -> AsyncIterator[Redis]:
    client = await connect(RedisSettings(url=far_server.url, operation_timeout_seconds=DEADLINE_SECONDS))
    yield client
    await client.aclose()


@pytest.mark.slow
async def test_groups_cross_a_lossy_link_once_each(far_server: FarServer, far_redis: Redis, keys: Keys) -> None:
    queue = TrajectoryQueue(far_redis, keys)
    await persist(queue.prepare, 30)

    async def publish(ordinals: range) -> None:
        for ordinal in ordinals:
            await persist(partial(queue.publish, ordinal, bytes([ordinal]) * GROUP_BYTES), 30)

    seen: dict[int, bytes] = {}
    async with asyncio.timeout(60):
        publishing = asyncio.gather(*(publish(range(first, GROUPS, 4)) for first in range(4)))
        while len(seen) < GROUPS:
            for entry in await queue.read(8, block_seconds=1.0):
                assert entry.ordinal not in seen
                seen[entry.ordinal] = entry.payload
                await queue.acknowledge({entry.entry_id: entry.ordinal})
        await publishing
    assert seen == {ordinal: bytes([ordinal]) * GROUP_BYTES for ordinal in range(GROUPS)}
    assert await queue.depth() == 0
    await far_redis.aclose()
    assert far_server.lost_packets() > 10
