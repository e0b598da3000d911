"""Weight intake: an offered version becomes the policy that serves, or nothing changes.

Shards are staged in files while they are hashed; only what has the promised digests is looked into, and only a version
whose tensors are all right, and that computes what the trainer computed with it, is applied. The files of the version
that serves are kept: they are the base of the next delta. A version is passed on to other replicas while it comes in,
where the offer asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from redis.exceptions import RedisError

from ais.contracts.weights.adapter import ADAPTER
from ais.contracts.weights.forms import BF16
from ais.contracts.weights.offer import Missing, Offer, WeightsStatus
from ais.contracts.weights.refusal import PROBE, WeightsRefusedError
from ais.contracts.weights.upload import ShardFile, these
from ais.rollout.engine import (
    Engine,
    EngineFailedError,
    RollbackFailedError,
    WeightSwap,
)
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.weights.relay import Relay
from ais.rollout.weights.shared import take_shared
from ais.rollout.weights.standing import FROM_DISK, Lease, Standing, Verdict, follow, is_known, judge, same_bytes
from ais.rollout.weights.transfer import Transfer
from ais.runtime.tracing.spans import span

LARGEST_DTYPE_BYTES = 4
HEADER_BYTES = 64 * 1024 * 1024
"""Room for the safetensors headers beside the values."""


async def no_lease() -> None:
    """Says that there is none: whoever offers first is followed."""


class WeightIntake:
    """Receives versions, one applied at a time, for one engine."""

    def __init__(
        self,
        engine: Engine,
        staging: Path,
        metrics: RolloutMetrics,
        applied: Callable[[], None],
        threads: int = 1,
        relay: Relay | None = None,
        lease: Callable[[], Awaitable[Lease | None]] = no_lease,
        model: Sequence[Path] = (),
        shared: Path | None = None,
    ) -> None:
        """`staging` is a directory for versions on their way in and the one that serves; `applied` is called when a
        new version serves; `threads` unpack deltas and hash; `relay` passes versions on; `lease` gives what Redis has
        for the run's name, and raises RedisError; `model` are the weights that the engine was opened with, which
        adapters are merged into, and without them no adapter is taken; `shared` is a directory that versions are taken
        from, where an offer says that they lie there."""
        self._engine = engine
        self._lease = lease
        self._staging = staging
        self._metrics = metrics
        self._applied = applied
        self._threads = threads
        self._model = model
        self._shared = shared
        self._relay = relay or Relay(metrics)
        self._relaying: dict[asyncio.Task[None], Transfer] = {}
        """What is passed on; its files stay until that is over."""
        self._offers = asyncio.Lock()
        self._incoming: Transfer | None = None
        self._serving: Transfer | None = None
        """Where the version that serves came from; None while it is the one loaded from disk."""
        self._files: list[Path] = []
        self._run, self._incarnation = "", FROM_DISK
        self._applied_seconds = 0.0
        self.probe_gap: float | None = None
        """What the probe showed of the version that serves, nats a token; None: it came without a probe."""
        self.probe_allowed: float | None = None
        self.draining = False

    def status(self) -> WeightsStatus:
        description = self._engine.describe()
        return WeightsStatus(
            version=description.version,
            digest=description.digest,
            incarnation=self._incarnation,
            applied_seconds=self._applied_seconds,
            form=self._form(),
            probe_gap=self.probe_gap,
        )

    async def offer(self, offer: Offer) -> WeightsStatus | Missing:
        """What is missing of a version, or its status once it serves: the last offer applies it.

        One offer at a time: another one waits while a version is applied, and is then judged by what serves. Raises
        WeightsRefusedError; then the old version goes on serving.
        """
        try:
            self._check_envelope(offer)
            async with self._offers:
                standing = await self._follow(offer)
                verdict = judge(standing, offer)
                if verdict is Verdict.SERVED:
                    self._run, self._incarnation = offer.run, max(standing.incarnation, offer.incarnation)
                    self._metrics.weight_swaps.labels("unchanged").inc()
                    self._pass_on_served(offer)
                    return self.status()
                transfer = self._transfer(offer, verdict)
                if verdict is Verdict.NEW and self._shared is not None and offer.shared:
                    await take_shared(transfer, self._shared, self._threads, self._metrics.shared_shards)
                missing = transfer.missing()
                return missing if missing.shards else await self._apply(transfer)
        except WeightsRefusedError as refusal:
            self._metrics.weight_swaps.labels(str(refusal.status)).inc()
            raise

    async def receive(
        self, version: int, index: int, digest: str, offset: int, length: int | None, body: AsyncIterator[bytes]
    ) -> Missing:
        """Stages bytes of a shard that was offered. Raises WeightsRefusedError; what came before it is kept."""
        if self.draining:
            raise WeightsRefusedError("replica", "is draining and takes no new weights", 503)
        transfer = self._incoming
        shards = transfer.offer.shards if transfer and transfer.offer.version == version else ()
        if transfer is None or not 0 <= index < len(shards) or shards[index].sent_digest != digest:
            raise WeightsRefusedError("version", f"shard {index} of version {version} is not expected; offer it", 404)
        if length is None:
            raise WeightsRefusedError("length", "expected a Content-Length", 411)
        await transfer.shards[index].take(offset, body, self._metrics.weight_bytes.inc)
        return transfer.missing()

    async def close(self) -> None:
        """Ends what is passed on, and removes everything staged."""
        await self._relay.close()
        for transfer in (self._incoming, self._serving, *self._relaying.values()):
            if transfer is not None:
                transfer.discard()
        self._incoming = self._serving = None

    def _check_envelope(self, offer: Offer) -> None:
        if self.draining:
            raise WeightsRefusedError("replica", "is draining and takes no new weights", 503)
        encodings = ("full", "delta", *([ADAPTER] if self._model else []))
        if offer.encoding not in encodings:
            raise WeightsRefusedError("encoding", f"expected {' or '.join(encodings)}, got {offer.encoding!r}", 415)
        description = self._engine.describe()
        if offer.form not in description.forms:
            known = ", ".join(sorted(description.forms))
            raise WeightsRefusedError("form", f"expected {known}, got {offer.form!r}; send bf16", 415)
        largest = description.parameter_count * LARGEST_DTYPE_BYTES + HEADER_BYTES
        if (size := max(offer.sent_bytes, sum(shard.size for shard in offer.shards))) > largest:
            raise WeightsRefusedError("length", f"expected at most {largest} bytes for this model, got {size}", 413)

    async def _follow(self, offer: Offer) -> Standing:
        """How the offer finds this replica. Redis is asked only about a trainer that is not known yet."""
        standing = Standing(
            version=(serving := self._engine.describe()).version,
            digest=serving.digest,
            form=self._form(),
            files=tuple(file.name for file in self._files),
            run=self._run,
            incarnation=self._incarnation,
            coming=self._incoming.offer if self._incoming else None,
        )
        if is_known(standing, offer):
            return standing
        try:
            lease = await self._lease()
        except (RedisError, TimeoutError) as error:
            raise WeightsRefusedError("run", f"Redis does not say which run has this name: {error}", 503) from error
        return follow(standing, offer, lease)

    def _transfer(self, offer: Offer, verdict: Verdict) -> Transfer:
        """The transfer under way for this offer; a new one takes the place of whatever was coming."""
        coming = self._incoming
        if coming is not None and verdict is Verdict.COMING:
            self._pass_on(offer, coming, coming.whole)
            return coming
        if coming is not None:
            for task in self._passing_on(coming):
                task.cancel()  # it would wait for shards that never become whole
            self._discard(coming)
        self._incoming = Transfer(offer, self._staging)
        self._pass_on(offer, self._incoming, self._incoming.whole)
        return self._incoming

    def _pass_on(self, offer: Offer, transfer: Transfer, shard_file: ShardFile) -> None:
        """To the targets that this transfer is not passed on to yet: an offer is repeated, and may name others then."""
        targets = tuple(target for target in offer.relay if (offer.incarnation, target) not in transfer.passed_on)
        if targets:
            transfer.passed_on |= {(offer.incarnation, target) for target in targets}
            task = self._relay.pass_on(offer.model_copy(update={"relay": targets}), shard_file)
            self._relaying[task] = transfer
            task.add_done_callback(self._passed_on)

    def _pass_on_served(self, offer: Offer) -> None:
        """What serves already still has to reach those below, as long as it is here as it is to be sent."""
        serving = self._serving
        if serving is None:
            return
        if same_bytes(serving.offer.model_copy(update={"run": offer.run, "incarnation": offer.incarnation}), offer):
            self._pass_on(offer, serving, serving.whole)
        elif offer.encoding == "full" and offer.form == self._form():
            self._pass_on(offer, serving, these(self._files))

    def _passed_on(self, task: asyncio.Task[None]) -> None:
        transfer = self._relaying.pop(task)
        if transfer not in (self._incoming, self._serving):
            self._discard(transfer)

    def _passing_on(self, transfer: Transfer) -> list[asyncio.Task[None]]:
        return [task for task, passed_on in self._relaying.items() if passed_on is transfer]

    def _discard(self, transfer: Transfer) -> None:
        """Removes its files, once nobody is sent them any more."""
        if not self._passing_on(transfer):
            transfer.discard()

    def _form(self) -> str:
        """The form of the files that serve."""
        return BF16 if self._serving is None else self._serving.offer.form

    async def _apply(self, transfer: Transfer) -> WeightsStatus:
        offer = transfer.offer
        with span("apply weights", version=offer.version, encoding=offer.encoding, form=offer.form) as applying:
            status = await self._applied_from(transfer)
            applying.tell(paused_seconds=status.applied_seconds)
        return status

    async def _applied_from(self, transfer: Transfer) -> WeightsStatus:
        offer = transfer.offer
        try:
            files = await asyncio.to_thread(transfer.unpack, self._files, self._model, self._threads)
            swap = await self._swap(offer, files)
        except BaseException:
            self._incoming = None
            self._discard(transfer)
            raise
        self._incoming = None
        old, self._serving, self._files = self._serving, transfer, files
        self._run, self._incarnation = offer.run, offer.incarnation
        if old is not None:
            self._discard(old)
        self._tell(swap)
        return self.status()

    async def _swap(self, offer: Offer, files: list[Path]) -> WeightSwap:
        try:
            return await self._engine.swap_weights(offer.version, offer.digest, files)
        except WeightsRefusedError as refusal:
            if refusal.field == PROBE:
                self._metrics.probe_rejections.labels("kept").inc()
            raise
        except EngineFailedError as error:
            if isinstance(error, RollbackFailedError):
                self._metrics.probe_rejections.labels("lost").inc()
            raise WeightsRefusedError("replica", str(error), 503) from error

    def _tell(self, swap: WeightSwap) -> None:
        self._applied_seconds = swap.paused_seconds
        self.probe_gap, self.probe_allowed = swap.probe_gap, swap.probe_allowed
        self._applied()
        self._metrics.weight_swaps.labels("applied").inc()
        self._metrics.swap_paused_seconds.observe(swap.paused_seconds)
        self._metrics.swap_staging_seconds.observe(swap.staging_seconds)
        self._metrics.show_probe(swap.probe_gap, swap.probe_allowed)
        self._metrics.show_cache(swap.cache)
