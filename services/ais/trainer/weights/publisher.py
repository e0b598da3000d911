"""Brings every replica to the newest policy version, in the background.

Policy: one task for each upload, so a straggler delays nobody; the newest version wins, so a version that is overtaken
before its upload starts is never uploaded. A replica is served when it has not confirmed the newest version to this
trainer: what its number is does not matter, only version and digest, and its answer. It gets the delta when it serves
the delta's base, else the full version: so does a newcomer, or one that fell behind.
With `trainer.push.wire=replica` both are in the form that the replica computes with, as long as it takes it (`forms`).

With more replicas than `push_fanout` the trainer sends to that many, and these pass the version on (`push_plan`). The
registry tells who has it; who has not when the deadline is over, or whose sender failed, is served by the trainer.

An upload that fails in a way that may pass is tried again with back-off, from where it was cut; a replica that stays
unreachable or misses its deadline is set aside: it holds nobody up any more, and is tried until it is back or gone. An
answer of 4xx means that trying again cannot help: the replica is left with what it serves until the next version.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from redis.exceptions import RedisError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.weights.forms import BF16
from ais.contracts.weights.offer import RelayTarget, WeightsStatus
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.contracts.weights.upload import (
    TransientUploadError,
    UploadError,
    these,
    upload,
    upload_client,
)
from ais.runtime.tasks import end_tasks
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.settings import PushSettings
from ais.trainer.weights.deltas import DeltaMaker, Parcel, full
from ais.trainer.weights.forms import FormMaker, form_for
from ais.trainer.weights.push_plan import Branch, branches
from ais.trainer.weights.snapshot import Identity, Snapshot

SETTLE_POLL_SECONDS = 0.01
CANNOT_TAKE = ((409, "base"), (415, "encoding"), (415, "form"))
"""Status and field of answers to what can be sent otherwise."""
BASES = 2
"""Versions before the newest whose files are kept for deltas, where replicas serve them."""

logger = logging.getLogger(__name__)


@dataclass
class _Replica:
    """What the publisher knows about one replica beyond its record, which lags by a heartbeat."""

    url: str
    form: str
    """In which it gets versions."""
    recorded: Identity
    """What the registry said last."""
    serving: Identity
    """What the replica or the registry said last."""
    settled: Identity | None = None
    """Nothing is left to do for this version: it is served, or was refused for good."""
    task: asyncio.Task[None] | None = None
    """The upload under way."""
    sending: Identity | None = None
    """What is uploaded, or passed on to it by another replica."""
    relay_deadline: float | None = None
    """Until when, by the loop's clock, another replica may take to pass it on."""
    set_aside: bool = False
    """Its last upload failed or came too late: the trainer serves it alone, beside the others."""

    @property
    def busy(self) -> bool:
        return (self.task is not None and not self.task.done()) or self.relay_deadline is not None


class WeightPublisher:
    """Follows the registry of one run and uploads snapshots."""

    def __init__(
        self,
        registry: ReplicaRegistry,
        settings: PushSettings,
        metrics: TrainerMetrics,
        incarnation: int = 0,
        use_proxy: bool = False,
    ) -> None:
        """`incarnation` is this start of the trainer's: replicas take no version from an earlier one any more."""
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._incarnation = incarnation
        self._newest: Snapshot | None = None
        self._bases: dict[Identity, Snapshot] = {}
        self._forms = FormMaker(metrics)
        self._deltas = DeltaMaker(self._forms, incarnation, settings.delta_threads, metrics)
        self._base: Identity | None = None
        """Of the delta that is computed to the newest version."""
        self._wake = asyncio.Event()
        self._replicas: dict[str, _Replica] = {}
        self._client = upload_client(settings.deadline_seconds, use_proxy)

    @property
    def live_replicas(self) -> int:
        """Replicas in the registry when it was last read."""
        return len(self._replicas)

    def offer(self, snapshot: Snapshot) -> None:
        """Makes `snapshot` the one to publish. Returns at once."""
        if self._newest is not None:
            self._bases[self._newest.identity] = self._newest
            self._forget_bases()
        self._newest, self._base = snapshot, None
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
            await self._deltas.close()
            await self._forms.close()
            await self._client.aclose()

    async def settle(self, deadline_seconds: float) -> bool:
        """Waits until every live replica has the newest version. False: the deadline came first."""
        try:
            async with asyncio.timeout(deadline_seconds):
                while any(self._needs_upload(replica) for replica in self._replicas.values()):
                    self._wake.set()
                    await asyncio.sleep(SETTLE_POLL_SECONDS)
        except TimeoutError:
            return False
        return True

    # Who needs what.

    async def _look(self) -> None:
        """Reads the registry and starts what uploads are due."""
        try:
            records = await self._registry.replicas()
        except (RedisError, ValidationError) as error:
            logger.warning("cannot read the replica registry, uploads wait: %s", error)
            return
        live = {record.replica_id for record in records}
        for replica_id in [name for name in self._replicas if name not in live]:
            if (task := self._replicas.pop(replica_id).task) is not None:
                task.cancel()
        for record in records:
            self._note(record)
        self._metrics.set_aside.set(sum(replica.set_aside for replica in self._replicas.values()))
        if self._newest is not None:
            self._forget_bases()
            self._start_uploads(self._newest)

    def _note(self, record: ReplicaRecord) -> None:
        recorded = (record.policy_version, record.policy_digest)
        form = form_for(record) if self._settings.wire == "replica" else BF16
        replica = self._replicas.setdefault(record.replica_id, _Replica(record.http_url, form, recorded, recorded))
        replica.url = record.http_url
        if recorded != replica.recorded:
            replica.recorded = replica.serving = recorded
        if replica.relay_deadline is None:
            return
        if replica.sending == recorded:
            self._settle(replica, recorded)
        elif asyncio.get_running_loop().time() > replica.relay_deadline:
            replica.relay_deadline = None
            self._put_aside(record.replica_id, replica, "was not passed the version in time; the trainer sends it")

    def _needs_upload(self, replica: _Replica) -> bool:
        return self._newest is not None and replica.settled != self._newest.identity

    def _start_uploads(self, newest: Snapshot) -> None:
        waiting = {
            name: one for name, one in sorted(self._replicas.items()) if self._needs_upload(one) and not one.busy
        }
        self._choose_base(newest, waiting)
        fanout = self._settings.fanout
        if len(self._replicas) <= fanout:
            alone, together = list(waiting), []
        else:
            alone = [name for name, replica in waiting.items() if replica.set_aside]
            together = [name for name in waiting if name not in alone]
        for name in alone:
            self._start(newest, Branch(name, ()))
        # Only replicas that can use the same bytes can pass them on to each other.
        groups: dict[tuple[bool, str], list[str]] = {}
        for name in together:
            groups.setdefault((waiting[name].serving != self._base, waiting[name].form), []).append(name)
        for _use, group in sorted(groups.items()):
            for branch in branches(group, fanout - self._uploads(), fanout):
                self._start(newest, branch)

    def _uploads(self) -> int:
        """Uploads of the trainer's own, those to replicas set aside left out: they must not hold up the others."""
        running = (one for one in self._replicas.values() if one.task is not None and not one.task.done())
        return sum(not replica.set_aside for replica in running)

    def _choose_base(self, newest: Snapshot, waiting: dict[str, _Replica]) -> None:
        """Of what is served by those that wait, the newest version is what most are at, or soon will be."""
        served = {replica.serving for replica in waiting.values()} - {newest.identity}
        known = [self._bases[identity] for identity in served if identity in self._bases]
        if not self._settings.deltas or not known:
            return
        base = max(known, key=lambda snapshot: snapshot.version)
        if self._base is None or base.version > self._base[0]:
            self._base = base.identity
        if self._base == base.identity:
            for form in {replica.form for replica in waiting.values() if replica.serving == self._base}:
                self._deltas.start(base, newest, form)

    def _forget_bases(self) -> None:
        """Their files go unless a replica serves them, or is about to."""
        wanted = {identity for one in self._replicas.values() for identity in (one.serving, one.sending)}
        kept = sorted(identity for identity in self._bases if identity in wanted)[-BASES:]
        self._bases = {identity: self._bases[identity] for identity in kept}

    # Uploads.

    def _start(self, newest: Snapshot, branch: Branch) -> None:
        replica = self._replicas[branch.root]
        replica.sending = newest.identity
        for name in branch.below():
            # The deadline begins when there is something to send.
            self._replicas[name].sending, self._replicas[name].relay_deadline = newest.identity, math.inf
        relay = branch.targets({name: one.url for name, one in self._replicas.items()})
        upload = self._bring_up(replica, newest, branch, relay)
        replica.task = asyncio.create_task(upload, name=f"push {branch.root}")

    async def _bring_up(
        self, replica: _Replica, snapshot: Snapshot, branch: Branch, relay: tuple[RelayTarget, ...]
    ) -> None:
        """Uploads until the replica has the version, or gives up until the next look at the registry."""
        served = False
        try:
            parcels = await self._parcels(replica, snapshot)
            self._expect(branch)
            async with asyncio.timeout(self._settings.deadline_seconds):
                served = await self._upload(replica, snapshot, parcels, relay)
        except WeightsRefusedError as error:
            self._refused(branch.root, replica, snapshot, error)
        except (UploadError, TimeoutError, OSError) as error:
            if isinstance(error, TimeoutError):
                self._metrics.pushes.labels(outcome="failed").inc()
            self._put_aside(branch.root, replica, str(error) or "took longer than push_deadline_seconds")
        finally:
            if not served:  # also when the replica left the registry, which cancels this
                self._take_back(branch)
        if not replica.set_aside:
            self._wake.set()

    async def _parcels(self, replica: _Replica, snapshot: Snapshot) -> list[Parcel]:
        """What the version can be sent as, best first; the last one every replica can take."""
        delta = await self._deltas.parcel(replica.serving, snapshot.identity, replica.form)
        whole = await self._forms.of(snapshot, replica.form)
        parcels = [] if delta is None else [delta]
        parcels += [full(one, self._incarnation) for one in dict.fromkeys((whole, snapshot))]
        return parcels

    async def _upload(
        self, replica: _Replica, snapshot: Snapshot, parcels: Sequence[Parcel], relay: tuple[RelayTarget, ...]
    ) -> bool:
        """Passes with back-off. False: a newer version came before the replica had this one. Raises UploadError."""
        begin = time.perf_counter()
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(TransientUploadError),
            stop=stop_after_attempt(self._settings.attempts),
            wait=wait_random_exponential(multiplier=0.1, max=5.0),
            reraise=True,
        ):
            with attempt:
                if self._newest is not snapshot:
                    return False
                status = await self._pass(replica, parcels, relay)
        replica.serving = (status.version, status.digest)
        self._settle(replica, snapshot.identity)
        self._metrics.push_seconds.observe(time.perf_counter() - begin)
        return True

    async def _pass(
        self, replica: _Replica, parcels: Sequence[Parcel], relay: tuple[RelayTarget, ...]
    ) -> WeightsStatus:
        """One pass, with the next parcel where the replica cannot take one. Raises UploadError."""
        try:
            for parcel in parcels:
                if parcel.offer.form not in (replica.form, BF16):
                    continue
                try:
                    return await self._send(replica, parcel, relay)
                except WeightsRefusedError as error:
                    if parcel is parcels[-1] or (error.status, error.field) not in CANNOT_TAKE:
                        raise
                    if error.field == "form":
                        replica.form = BF16
                    self._metrics.pushes.labels(outcome="rebased").inc()
                    logger.info("a replica cannot take what is smallest, it gets something larger: %s", error)
            raise AssertionError("unreachable: every replica is sent the last one")
        except TransientUploadError:
            self._metrics.pushes.labels(outcome="failed").inc()
            raise

    async def _send(self, replica: _Replica, parcel: Parcel, relay: tuple[RelayTarget, ...]) -> WeightsStatus:
        offer = parcel.offer.model_copy(update={"relay": relay, "relay_seconds": self._settings.deadline_seconds})
        sent = self._metrics.push_bytes.labels(encoding=offer.encoding).inc
        status = await upload(self._client, replica.url, offer, these(parcel.files), sent)
        self._metrics.pushes.labels(outcome="applied").inc()
        return status

    # What came of it.

    def _settle(self, replica: _Replica, identity: Identity) -> None:
        replica.settled, replica.relay_deadline, replica.set_aside = identity, None, False

    def _put_aside(self, name: str, replica: _Replica, reason: str) -> None:
        if not replica.set_aside:
            logger.warning("replica %s is set aside, will go on trying: %s", name, reason)
        replica.set_aside = True

    def _expect(self, branch: Branch) -> None:
        """From now on those below have until the deadline to get the version from above."""
        deadline = asyncio.get_running_loop().time() + self._settings.deadline_seconds
        for name in branch.below():
            if name in self._replicas:
                self._replicas[name].relay_deadline = deadline

    def _take_back(self, branch: Branch) -> None:
        """Those below get the version from somebody else."""
        for name in branch.below():
            if name in self._replicas:
                self._replicas[name].relay_deadline = None

    def _refused(self, name: str, replica: _Replica, snapshot: Snapshot, error: WeightsRefusedError) -> None:
        self._settle(replica, snapshot.identity)
        if (error.status, error.field) == (409, "version"):
            self._metrics.pushes.labels(outcome="superseded").inc()
            logger.info("replica %s has something newer than version %d: %s", name, snapshot.version, error)
            return
        self._metrics.pushes.labels(outcome="refused").inc()
        logger.error("replica %s refused version %d and stays on its version: %s", name, snapshot.version, error)
