"""Passes a version on to other replicas, beside this replica's own apply. What becomes of it never matters here.

Only addresses that the registry has get anything: an offer may name any, and they would be sent the trainer's token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from redis.exceptions import RedisError

from ais.contracts.weights.offer import Offer, RelayTarget
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.contracts.weights.upload import ShardFile, UploadError, upload_client, upload_with_retries
from ais.rollout.metrics import RolloutMetrics
from ais.runtime.security.keyring import NOBODY, Credential
from ais.runtime.tasks import end_tasks
from ais.runtime.text import printable

ANSWER_SECONDS = 120.0
"""How long the answer of a replica that applies a version may take; the offer's `relay_seconds` bounds all of it."""

logger = logging.getLogger(__name__)


async def no_addresses() -> Collection[str]:
    """Says that no replica is registered: nothing is passed on."""
    return ()


class Relay:
    """The uploads of one replica to those below it."""

    def __init__(
        self,
        metrics: RolloutMetrics,
        registered: Callable[[], Awaitable[Collection[str]]] = no_addresses,
        use_proxy: bool = False,
        credential: Credential = NOBODY,
    ) -> None:
        """`registered` gives the control URLs of the run's replicas, and raises RedisError."""
        self._metrics = metrics
        self._registered = registered
        self._client = upload_client(ANSWER_SECONDS, use_proxy, credential)
        self._tasks: set[asyncio.Task[None]] = set()

    def pass_on(self, offer: Offer, shard_file: ShardFile) -> asyncio.Task[None]:
        """Sends what the offer says to the targets that it names, each shard as soon as it is whole here.

        The task ends when that is over, well or not; `shard_file`'s files are needed until then.
        """
        task = asyncio.create_task(self._within_deadline(offer, shard_file), name=f"relay {offer.version}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        await end_tasks(*self._tasks)
        await self._client.aclose()

    async def _within_deadline(self, offer: Offer, shard_file: ShardFile) -> None:
        try:
            async with asyncio.timeout(offer.relay_seconds):
                registered = frozenset(await self._registered())
                await self._serve(offer, offer.relay, shard_file, registered)
        except TimeoutError:
            logger.warning("version %d was not passed on in time; the trainer sees to the rest", offer.version)
        except RedisError as error:
            self._metrics.weight_relays.labels("failed").inc(len(offer.relay))
            logger.warning("version %d is not passed on, the registry cannot be read: %s", offer.version, error)

    async def _serve(
        self, offer: Offer, targets: tuple[RelayTarget, ...], shard_file: ShardFile, registered: frozenset[str]
    ) -> None:
        await asyncio.gather(*(self._serve_one(offer, target, shard_file, registered) for target in targets))

    async def _serve_one(
        self, offer: Offer, target: RelayTarget, shard_file: ShardFile, registered: frozenset[str]
    ) -> None:
        """The children of a replica that fails are served from here."""
        theirs = offer.model_copy(update={"relay": target.children})
        if target.url not in registered:
            self._metrics.weight_relays.labels("refused").inc()
            logger.warning(
                "version %d is not passed on to %s: no replica of the run is registered there",
                offer.version,
                printable(target.url, 200),
            )
            await self._serve(offer, target.children, shard_file, registered)
            return
        try:
            await upload_with_retries(self._client, target.url, theirs, shard_file)
        except (UploadError, WeightsRefusedError, OSError) as error:
            self._metrics.weight_relays.labels("failed").inc()
            logger.warning("version %d could not be passed on: %s", offer.version, error)
            await self._serve(offer, target.children, shard_file, registered)
        else:
            self._metrics.weight_relays.labels("served").inc()
