"""Brings every replica to the newest policy version, in the background.

Policy: one task a replica, so a straggler delays nobody; the newest version wins, so a version that is overtaken before
its upload starts is never uploaded; a replica that joins with an old version gets the newest at once. A transport error
or an answer of 5xx is retried with back-off (with what is newest by then); 4xx means that trying again cannot help: the
replica is left with what it serves until the next version.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from pydantic import ValidationError
from redis.exceptions import RedisError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from services.contracts.registry import ReplicaRecord, ReplicaRegistry
from services.contracts.weights import CONTENT_TYPE, DIGEST_HEADER, ENCODING_FULL, ENCODING_HEADER, WeightsRefused
from services.runtime.tasks import end_tasks
from services.trainer.metrics import TrainerMetrics
from services.trainer.settings import TrainerSettings
from services.trainer.snapshot import Snapshot

PIECE_BYTES = 1 << 20
"""The body is sent in pieces of this size: nothing of the payload is copied as a whole."""
SETTLE_POLL_SECONDS = 0.05
CONNECT_SECONDS = 5.0
"""A replica that is alive accepts a connection within this time."""

logger = logging.getLogger(__name__)


class _TransientError(Exception):
    """The upload failed in a way that may pass: no connection, deadline, 5xx."""


@dataclass
class _Replica:
    """What the publisher knows about one replica beyond its record, which lags by a heartbeat."""

    settled: int = -1
    """No version up to this one needs to be sent: it is served, or was refused for good."""
    task: asyncio.Task[None] | None = None
    unreachable: bool = False
    """The last upload failed; keeps the log from saying so at every attempt."""


class WeightPublisher:
    """Follows the registry of one run and uploads snapshots."""

    def __init__(self, registry: ReplicaRegistry, settings: TrainerSettings, metrics: TrainerMetrics) -> None:
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._newest: Snapshot | None = None
        self._wake = asyncio.Event()
        self._replicas: dict[str, _Replica] = {}
        self._records: list[ReplicaRecord] = []
        timeout = httpx.Timeout(settings.push_deadline_seconds, connect=CONNECT_SECONDS)
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False)

    @property
    def live_replicas(self) -> int:
        """Replicas in the registry when it was last read."""
        return len(self._records)

    def offer(self, snapshot: Snapshot) -> None:
        """Makes `snapshot` the one to publish. Returns at once."""
        self._newest = snapshot
        self._wake.set()

    async def run(self) -> None:
        """Follows the registry until cancelled."""
        try:
            while True:
                self._wake.clear()
                await self._look()
                try:
                    await asyncio.wait_for(self._wake.wait(), self._settings.registry_poll_seconds)
                except TimeoutError:
                    continue
        finally:
            await end_tasks(*[replica.task for replica in self._replicas.values() if replica.task is not None])
            await self._client.aclose()

    async def settle(self, deadline_seconds: float) -> bool:
        """Waits until every live replica has the newest version. False: the deadline came first."""
        try:
            async with asyncio.timeout(deadline_seconds):
                while any(self._needs_upload(record) for record in self._records):
                    self._wake.set()
                    await asyncio.sleep(SETTLE_POLL_SECONDS)
        except TimeoutError:
            return False
        return True

    async def _look(self) -> None:
        """Reads the registry and starts an upload for each replica that is behind and has none under way."""
        try:
            self._records = await self._registry.replicas()
        except (RedisError, ValidationError) as error:
            logger.warning("cannot read the replica registry, uploads wait: %s", error)
            return
        live = {record.replica_id for record in self._records}
        for replica_id in [name for name in self._replicas if name not in live]:
            if (task := self._replicas.pop(replica_id).task) is not None:
                task.cancel()
        for record in self._records:
            replica = self._replicas.setdefault(record.replica_id, _Replica())
            if self._needs_upload(record) and (replica.task is None or replica.task.done()):
                replica.task = asyncio.create_task(self._bring_up(record, replica), name=f"push {record.replica_id}")

    def _needs_upload(self, record: ReplicaRecord) -> bool:
        replica = self._replicas.get(record.replica_id)
        settled = max(record.policy_version, replica.settled if replica else -1)
        return self._newest is not None and self._newest.version > settled

    async def _bring_up(self, record: ReplicaRecord, replica: _Replica) -> None:
        """Uploads until the replica has the newest version, or gives up until the next look at the registry."""
        try:
            while self._needs_upload(record):
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(_TransientError),
                    stop=stop_after_attempt(self._settings.push_attempts),
                    wait=wait_random_exponential(multiplier=0.1, max=5.0),
                    reraise=True,
                ):
                    with attempt:
                        assert self._newest is not None
                        replica.settled = await self._upload(record, self._newest)
            replica.unreachable = False
        except _TransientError as error:
            if not replica.unreachable:
                logger.warning("cannot bring replica %s up to date, will go on trying: %s", record.replica_id, error)
            replica.unreachable = True

    async def _upload(self, record: ReplicaRecord, snapshot: Snapshot) -> int:
        """One PUT. Returns the version up to which the replica is settled. Raises _TransientError."""
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.push_deadline_seconds):
                response = await self._client.put(
                    f"{record.http_url.rstrip('/')}/v1/weights/{snapshot.version}",
                    content=_pieces(snapshot.payload),
                    headers={
                        "Content-Type": CONTENT_TYPE,
                        "Content-Length": str(len(snapshot.payload)),
                        DIGEST_HEADER: snapshot.digest,
                        ENCODING_HEADER: ENCODING_FULL,
                    },
                )
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            self._metrics.pushes.labels(outcome="failed").inc()
            raise _TransientError(f"{record.http_url}: {error or type(error).__name__}") from error
        if _may_pass(response):
            self._metrics.pushes.labels(outcome="failed").inc()
            raise _TransientError(f"{record.http_url} answered {response.status_code}: {response.text[:200]}")
        if response.is_success:
            self._metrics.push_seconds.observe(time.perf_counter() - begin)
            self._metrics.push_bytes.inc(len(snapshot.payload))
            self._metrics.pushes.labels(outcome="applied").inc()
            return snapshot.version
        if (serving := _newer_version_served(response, snapshot.version)) is not None:
            self._metrics.pushes.labels(outcome="superseded").inc()
            return serving
        self._metrics.pushes.labels(outcome="refused").inc()
        logger.error(
            "replica %s refused version %d with %d, it stays on its version: %s",
            record.replica_id,
            snapshot.version,
            response.status_code,
            response.text[:500],
        )
        return snapshot.version


def _may_pass(response: httpx.Response) -> bool:
    """Whether the same upload may succeed next time: the replica is in trouble, or the body came late or damaged."""
    if response.status_code >= 500 or response.status_code == httpx.codes.REQUEST_TIMEOUT:
        return True
    if response.status_code != httpx.codes.UNPROCESSABLE_ENTITY:
        return False
    try:
        return WeightsRefused.model_validate_json(response.content).field == "digest"
    except ValidationError:
        return False


async def _pieces(payload: bytes) -> AsyncIterator[bytes]:
    view = memoryview(payload)
    for begin in range(0, len(view), PIECE_BYTES):
        yield bytes(view[begin : begin + PIECE_BYTES])


def _newer_version_served(response: httpx.Response, version: int) -> int | None:
    """The version served, when a 409 says that it is newer than `version`."""
    if response.status_code != httpx.codes.CONFLICT:
        return None
    try:
        refusal = WeightsRefused.model_validate_json(response.content)
    except ValidationError:
        return None
    return refusal.serving_version if refusal.serving_version > version else None
