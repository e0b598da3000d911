"""Publishes ordinals as a collector does, and prints each that was answered.

python publisher_process.py URL RUN BEGIN END
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.runtime.network.patience import persist
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings

CONCURRENCY = 4
PAYLOAD_BYTES = 20_000


async def main(url: str, run: str, begin: int, end: int) -> None:
    redis = await connect(RedisSettings(url=url))
    queue = TrajectoryQueue(redis, Keys(run))
    ordinals = iter(range(begin, end))

    async def keep_publishing() -> None:
        for ordinal in ordinals:
            await persist(partial(queue.publish, ordinal, b"%d " % ordinal + bytes(PAYLOAD_BYTES)), None)
            print(ordinal, flush=True)

    await asyncio.gather(*(keep_publishing() for _ in range(CONCURRENCY)))
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
