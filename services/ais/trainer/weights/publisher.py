"""Carries out what the push policy decides: tasks, deltas and HTTP. `push_policy` says who is sent what."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError
from redis.exceptions import RedisError

from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.weights.forms import BF16
from ais.contracts.weights.offer import Identity, RelayTarget
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.contracts.weights.upload import TransientUploadError, UploadError, these, upload_client, upload_with_retries
from ais.runtime.process import UnavailableError
from ais.runtime.security.keyring import NOBODY, Credential
from ais.runtime.tasks import end_tasks
from ais.runtime.text import printable
from ais.runtime.tracing.spans import Span, span
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.settings import PushSettings
from ais.trainer.weights.adapters import AdapterMaker
from ais.trainer.weights.codes import CodeWatch
from ais.trainer.weights.deltas import DeltaMaker, Origin, Parcel, full
from ais.trainer.weights.fleet_file import FleetFile
from ais.trainer.weights.forms import FormMaker, form_for
from ais.trainer.weights.push_policy import (
    Abandon,
    Decision,
    Limits,
    MakeDelta,
    Push,
    PushPolicy,
    RefusedByAll,
    Seen,
    SetAside,
)
from ais.trainer.weights.snapshot import Snapshot

SETTLE_POLL_SECONDS = 0.01
OUTCOMES = {"otherwise": "rebased", "superseded": "superseded", "refused": "refused"}
"""Labels of `ais_weight_pushes` by what a refusal means to the policy."""

logger = logging.getLogger(__name__)


class VersionRefusedError(UnavailableError):
    """No replica takes the newest version: nothing can be sampled with it, however long the trainer waits."""


class WeightPublisher:
    """Follows the registry of one run and uploads snapshots."""

    def __init__(
        self,
        registry: ReplicaRegistry,
        settings: PushSettings,
        metrics: TrainerMetrics,
        origin: Origin = Origin(),  # noqa: B008  # frozen
        use_proxy: bool = False,
        credential: Credential = NOBODY,
        fleet: FleetFile | None = None,
        looked: Callable[[Sequence[ReplicaRecord]], None] = lambda _records: None,
        shared: Path | None = None,
    ) -> None:
        """`origin` is this start of the trainer: replicas take no version from an earlier one any more. `fleet` and
        `looked` are told of every look at the registry. `shared`: a directory that replicas on this machine read
        versions from; snapshots must be staged below it."""
        self._fleet = fleet
        self._looked = looked
        self._shared = shared
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._origin = origin
        self._forms = FormMaker(metrics)
        self._deltas = DeltaMaker(self._forms, origin, settings.delta_threads, metrics)
        self._adapters = AdapterMaker(origin)
        self._codes = CodeWatch(metrics)
        self._policy = PushPolicy(
            Limits(
                settings.fanout,
                settings.deadline_seconds,
                settings.deltas,
                settings.refusals,
                adapters=settings.lora == "adapter",
            )
        )
        self._snapshots: dict[Identity, Snapshot] = {}
        self._traceparents: dict[Identity, str] = {}
        self._urls: dict[str, str] = {}
        """URLs of the control APIs, by replica."""
        self._uploads: dict[Push, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._client = upload_client(settings.deadline_seconds, use_proxy, credential)

    @property
    def live_replicas(self) -> int:
        """Replicas in the registry when it was last read."""
        return self._policy.live

    def offer(self, snapshot: Snapshot, traceparent: str = "") -> None:
        """Makes `snapshot` the one to publish. Returns at once. `traceparent`: of the step that made it."""
        self._snapshots[snapshot.identity] = snapshot
        self._traceparents[snapshot.identity] = traceparent
        self._policy.offer(snapshot.identity)
        self._codes.offered(snapshot)
        self._forget_snapshots()
        self._wake.set()

    async def run(self) -> None:
        """Follows the registry until cancelled. Raises VersionRefusedError when no replica takes the newest version."""
        try:
            while True:
                self._wake.clear()
                await self._look()
                for decision in self._policy.decide(self._now()):
                    self._carry_out(decision)
                self._metrics.weights.set_aside.set(self._policy.set_aside)
                self._metrics.weights.refused_by_all.set(self._policy.refusals)
                try:
                    await asyncio.wait_for(self._wake.wait(), self._settings.registry_poll_seconds)
                except TimeoutError:
                    continue
        finally:
            await end_tasks(*self._uploads.values())
            if self._fleet is not None:
                await self._fleet.end()
            await self._deltas.close()
            await self._adapters.close()
            await self._forms.close()
            await self._codes.close()
            await self._client.aclose()

    async def settle(self, deadline_seconds: float) -> bool:
        """Waits until every live replica has the newest version. False: the deadline came first."""
        try:
            async with asyncio.timeout(deadline_seconds):
                while not self._policy.settled:
                    self._wake.set()
                    await asyncio.sleep(SETTLE_POLL_SECONDS)
        except TimeoutError:
            return False
        return True

    async def _look(self) -> None:
        try:
            records = await self._registry.replicas()
        except (RedisError, ValidationError) as error:
            logger.warning("cannot read the replica registry, uploads wait: %s", error)
            return
        self._urls = {record.replica_id: record.http_url for record in records}
        self._policy.look(map(self._seen, records), self._now())
        self._show(records)
        self._looked(records)
        self._forget_snapshots()
        if self._fleet is not None and self._policy.newest is not None:
            await self._fleet.show(records, self._policy.newest[0])

    def _show(self, records: Sequence[ReplicaRecord]) -> None:
        self._codes.formats = frozenset(record.precision.weights for record in records)
        newest = self._policy.newest
        if newest is not None:
            self._metrics.weights.replica_lag.show(
                {(record.replica_id,): max(0, newest[0] - record.policy_version) for record in records}
            )

    def _seen(self, record: ReplicaRecord) -> Seen:
        form = form_for(record) if self._settings.wire == "replica" else BF16
        return Seen(record.replica_id, (record.policy_version, record.policy_digest), form)

    def _forget_snapshots(self) -> None:
        """Their files go with the last upload that needs them."""
        kept = self._policy.kept
        self._snapshots = {identity: one for identity, one in self._snapshots.items() if identity in kept}
        self._traceparents = {identity: one for identity, one in self._traceparents.items() if identity in kept}

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # Decisions.

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case MakeDelta(base, version, form):
                self._deltas.start(self._snapshots[base], self._snapshots[version], form)
            case Push():
                upload = self._bring_up(decision, self._snapshots[decision.version])
                self._uploads[decision] = task = asyncio.create_task(upload, name=f"push {decision.branch.root}")
                task.add_done_callback(lambda _task: self._uploads.pop(decision))
            case Abandon(push):
                if push in self._uploads:
                    self._uploads[push].cancel()
            case SetAside(name, reason):
                logger.warning("replica %s is set aside, will go on trying: %s", printable(name), printable(reason))
            case RefusedByAll():
                self._tell_of_refusals(decision)

    def _tell_of_refusals(self, told: RefusedByAll) -> None:
        reasons = "; ".join(f"{printable(name, 100)}: {printable(reason)}" for name, reason in told.reasons.items())
        text = f"every replica refuses version {told.version[0]} and stays on its own ({printable(reasons, 2000)})"
        if told.final:
            raise VersionRefusedError(
                f"{text}. It was offered {self._settings.refusals} times. Nothing can be sampled with it: correct what "
                "the replicas name, start replicas that take it, or go back to an earlier checkpoint"
            )
        logger.warning("%s; it is offered again", text)

    # Uploads.

    async def _bring_up(self, push: Push, snapshot: Snapshot) -> None:
        """Uploads until the replica has the version or will not have it. Whatever goes wrong is that replica's."""
        name, step = push.branch.root, self._traceparents.get(push.version, "")
        with span("push weights", "client", step, replica=name[:200], version=push.version[0]) as pushing:
            await self._pushed(push, snapshot, pushing)
        self._wake.set()

    async def _pushed(self, push: Push, snapshot: Snapshot, pushing: Span) -> None:
        """`_bring_up` within its span."""
        begin = time.perf_counter()
        name = push.branch.root
        try:
            parcel = await self._parcel(push, snapshot)
            pushing.tell(encoding=parcel.offer.encoding, bytes=parcel.offer.sent_bytes)
            self._policy.begun(push, self._now())
            async with asyncio.timeout(self._settings.deadline_seconds):
                served = await self._upload(push, parcel)
        except WeightsRefusedError as error:
            pushing.fail("refused")
            self._refused(push, error)
        except (UploadError, TimeoutError, OSError) as error:
            pushing.fail(type(error).__name__)
            if isinstance(error, TimeoutError):
                self._metrics.weights.pushes.labels(outcome="failed").inc()
            self._policy.failed(push, str(error) or "took longer than trainer.push.deadline_seconds")
        except Exception as error:
            pushing.fail(type(error).__name__)
            logger.exception("an upload to replica %s ended with an error that nothing handles", printable(name))
            self._policy.failed(push, f"{type(error).__name__}: {error}")
        else:
            if served:
                self._metrics.weights.pushes.labels(outcome="applied").inc()
                seconds = time.perf_counter() - begin
                self._metrics.weights.push_seconds.labels(parcel.offer.encoding).observe(seconds)
                self._policy.served(push)
            else:
                self._policy.overtaken(push)

    async def _parcel(self, push: Push, snapshot: Snapshot) -> Parcel:
        """The adapter or the delta where the policy asks for it and there is one, else the whole version, in the push's
        form."""
        if push.adapter and (adapter := await self._adapters.parcel(snapshot)) is not None:
            return adapter
        if push.base is not None:
            delta = await self._deltas.parcel(push.base, push.version, push.form)
            if delta is not None:
                return delta
        return full(await self._forms.of(snapshot, push.form), self._origin)

    async def _upload(self, push: Push, parcel: Parcel) -> bool:
        """False: a newer version came before the replica had this one."""
        changes = {
            "relay": self._targets(push),
            "relay_seconds": self._settings.deadline_seconds,
            "shared": self._place(parcel),
        }
        status = await upload_with_retries(
            self._client,
            self._urls[push.branch.root],
            parcel.offer.model_copy(update=changes),
            these(parcel.files),
            attempts=self._settings.attempts,
            wanted=lambda: self._policy.newest == push.version,
            sent=self._metrics.weights.push_bytes.labels(encoding=parcel.offer.encoding).inc,
            failed=self._pass_failed,
        )
        return status is not None

    def _place(self, parcel: Parcel) -> str:
        """Where its files lie in the shared directory."""
        return "" if self._shared is None else os.path.relpath(parcel.files[0].parent, self._shared)

    def _targets(self, push: Push) -> tuple[RelayTarget, ...]:
        return push.branch.targets(self._urls)

    def _pass_failed(self, _error: TransientUploadError) -> None:
        self._metrics.weights.pushes.labels(outcome="failed").inc()

    def _refused(self, push: Push, error: WeightsRefusedError) -> None:
        name, version = printable(push.branch.root), push.version[0]
        meaning = self._policy.refused(push, error)
        self._metrics.weights.pushes.labels(outcome=OUTCOMES[meaning]).inc()
        if meaning == "otherwise":
            logger.info("replica %s cannot take what is smallest, it gets something larger: %s", name, error)
        elif meaning == "superseded":
            logger.info("replica %s has something newer than version %d: %s", name, version, error)
        else:
            logger.error("replica %s refused version %d and stays on its version: %s", name, version, error)
