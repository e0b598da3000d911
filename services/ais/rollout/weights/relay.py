"""Passes a version on to other replicas, beside this replica's own apply. What becomes of it never matters here."""

from __future__ import annotations

import asyncio
import logging

from ais.contracts.weights.offer import Offer, RelayTarget
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.contracts.weights.upload import ShardFile, UploadError, upload_client, upload_with_retries
from ais.rollout.metrics import RolloutMetrics
from ais.runtime.security.keyring import NOBODY, Credential
from ais.runtime.tasks import end_tasks

ANSWER_SECONDS = 120.0
"""How long the answer of a replica that applies a version may take; the offer's `relay_seconds` bounds all of it."""

logger = logging.getLogger(__name__)


class Relay:
    """The uploads of one replica to those below it."""

    def __init__(self, metrics: RolloutMetrics, use_proxy: bool = False, credential: Credential = NOBODY) -> None:
        self._metrics = metrics
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
                await self._serve(offer, offer.relay, shard_file)
        except TimeoutError:
            logger.warning("version %d was not passed on in time; the trainer sees to the rest", offer.version)

    async def _serve(self, offer: Offer, targets: tuple[RelayTarget, ...], shard_file: ShardFile) -> None:
        await asyncio.gather(*(self._serve_one(offer, target, shard_file) for target in targets))

    async def _serve_one(self, offer: Offer, target: RelayTarget, shard_file: ShardFile) -> None:
        """The children of a replica that fails are served from here."""
        theirs = offer.model_copy(update={"relay": target.children})
        try:
            await upload_with_retries(self._client, target.url, theirs, shard_file)
        except (UploadError, WeightsRefusedError, OSError) as error:
            self._metrics.weight_relays.labels("failed").inc()
            logger.warning("version %d could not be passed on: %s", offer.version, error)
            await self._serve(offer, target.children, shard_file)
        else:
            self._metrics.weight_relays.labels("served").inc()
