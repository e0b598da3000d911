"""The replicas as the collector sees them: who is there and proved, who gets the next group, a connection to each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from ais.collector.announced import Announced
from ais.collector.metrics import CollectorMetrics
from ais.collector.replicas.dispatch import Dispatcher
from ais.collector.replicas.generation import GenerationClient, GenerationError
from ais.collector.replicas.proof import Expected, WrongReplicaError
from ais.collector.replicas.sharing import Sharing
from ais.contracts.registry import EXPIRY_SECONDS, ReplicaRecord, ReplicaRegistry
from ais.runtime.security.keyring import NOBODY, Credential
from ais.runtime.tasks import end_tasks
from ais.runtime.text import printable

POLL_SECONDS = 0.25
"""How often the registry is read while every open group has found a replica, or waits for room on one."""
URGENT_POLL_SECONDS = 0.02
"""How often it is read while a group waits for a replica or for one's next version: a swap takes milliseconds."""
DESCRIBE_SECONDS = 5.0
"""A replica that is asked what it is answers by then."""
LONGEST_REPROOF_SECONDS = 8.0
"""Waits between two questions to a replica that does not answer double up to this."""
REPLICAS_TOLD = 5
"""Replicas that one line of the log says something about."""

logger = logging.getLogger(__name__)


@dataclass
class _Member:
    """One replica: its newest record, the connection, and what was found out about it."""

    record: ReplicaRecord
    client: GenerationClient
    change: int
    """Its certificates, when it was connected to: a gRPC channel keeps those that it was opened with."""
    question: asyncio.Task[None] | None = None
    """Asks the replica what it is, or whether it is still there."""
    proved: bool = False
    wrong: str | None = None
    """Why it can never work for this run."""


@dataclass(frozen=True)
class Links:
    """How replicas are connected to."""

    use_proxy: bool
    longest_response: int
    """Bytes of its tokens."""
    credential: Credential = NOBODY

    def change(self) -> int:
        """Rises when our certificates have changed."""
        return self.credential.certificates.change() if self.credential.certificates else 0

    def open(self, address: str) -> GenerationClient:
        return GenerationClient(address, self.use_proxy, self.longest_response, self.credential)


class Fleet:
    """Follows the registry. Single-threaded, like the collector it belongs to.

    A replica gets work once it has said what it is and that is what the run needs, and while it serves a policy version
    with the digest that the trainer announced.
    """

    def __init__(
        self,
        registry: ReplicaRegistry,
        links: Links,
        expected: Expected,
        announced: Announced,
        dispatcher: Dispatcher,
        metrics: CollectorMetrics,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when a group that waits may find a replica now."""
        self._registry = registry
        self._links = links
        self._expected = expected
        self._announced = announced
        self._metrics = metrics
        self._changed = changed
        self._members: dict[str, _Member] = {}
        """Also those whose record is gone, as long as calls to them run."""
        self._wanted = asyncio.Event()
        self._sharing = Sharing()
        self._away = False
        self.dispatcher = dispatcher
        self.replicas: list[ReplicaRecord] = []
        """As the registry had them when it was last read."""

    async def follow(self) -> None:
        """Reads the registry until cancelled."""
        while True:
            await self._read()
            self._changed()
            await asyncio.sleep(URGENT_POLL_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS - URGENT_POLL_SECONDS):
                    await self._wanted.wait()

    def choose(
        self,
        sequences: int,
        required_version: int,
        newest_version: int,
        avoid: str | None,
        excluded: Container[str],
        waiting: int,
    ) -> ReplicaRecord | None:
        """The replica for a group, see Dispatcher. Where none may take it at all, or others will in a moment (see
        Sharing; `waiting` sequences wait, the group's too), the registry is read more often.

        A replica that is ahead of the trainer's `newest_version` has its version from a trainer that died; the one that
        resumed will bring it back.
        """
        able: list[ReplicaRecord] = []
        others: list[ReplicaRecord] = []
        for one in self.replicas:
            (others if self._obstacle(one, required_version, newest_version) else able).append(one)
        now = time.monotonic()
        most_load = self._most_load(able, others, required_version, excluded, waiting, now)
        chosen = self.dispatcher.choose(able, sequences, required_version, now, avoid, excluded, most_load)
        may_sample = any(self.dispatcher.may_sample(replica, required_version) for replica in able)
        if chosen or (may_sample and most_load is None):
            self._wanted.clear()
        else:
            self._wanted.set()
        return chosen

    def _most_load(
        self,
        able: Sequence[ReplicaRecord],
        others: Sequence[ReplicaRecord],
        required_version: int,
        excluded: Container[str],
        waiting: int,
        now: float,
    ) -> float | None:
        """What `Sharing` says of the replicas that take work."""
        serving = [one for one in able if one.replica_id not in excluded and not self.dispatcher.rests(one, now)]
        coming = [
            one
            for one in others
            if self._members[one.replica_id].proved and self.dispatcher.may_sample(one, required_version - 1)
        ]
        owed = self.dispatcher.outstanding
        return self._sharing.most_load(serving, coming, waiting, owed, required_version, now)

    def client(self, replica: ReplicaRecord) -> GenerationClient:
        """The connection to a replica that was chosen."""
        return self._members[replica.replica_id].client

    def serving(self, required_version: int) -> list[ReplicaRecord]:
        """The replicas that serve what the trainer announced, in that version at least, whatever they have to do."""
        return [
            replica
            for replica in self.replicas
            if self._obstacle(replica, required_version, replica.policy_version) is None
        ]

    def obstacles(self, required_version: int, newest_version: int, refused_by: dict[str, str]) -> str:
        """Why no replica takes a group, for people."""
        if not self.replicas:
            return "no replica is in the registry"
        reasons = []
        for replica in self.replicas[:REPLICAS_TOLD]:
            name = replica.replica_id
            reason = self._obstacle(replica, required_version, newest_version)
            if reason is None and name in refused_by:
                reason = f"refuses the prompt: {refused_by[name]}"
            reasons.append(f"{name} {reason or 'rests after a failed call, or is full'}")
        more = len(self.replicas) - len(reasons)
        return "; ".join(reasons) + (f"; and {more} more" if more > 0 else "")

    def all_refuse(self, refused_by: dict[str, str]) -> bool:
        """Whether every replica there is can never serve the prompt that was `refused_by` some, or this run at all."""
        members = [self._members[replica.replica_id] for replica in self.replicas]
        return bool(members) and all(one.wrong is not None or one.record.replica_id in refused_by for one in members)

    async def close(self) -> None:
        """Closes every connection; calls that still run fail."""
        await end_tasks(*[member.question for member in self._members.values() if member.question is not None])
        for member in self._members.values():
            await member.client.close()

    def _obstacle(self, replica: ReplicaRecord, required_version: int, newest_version: int) -> str | None:
        """Why the replica may not sample with that version at the earliest; None if it may."""
        member = self._members[replica.replica_id]
        if member.wrong is not None:
            return f"is none of this run's: {member.wrong}"
        if not member.proved:
            return "has not answered yet what it is"
        if not replica.ready:
            return "is not ready"
        version = replica.policy_version
        if version < required_version:
            why = "its push is under way, or the trainer's log says why not"
            return f"serves version {version}, needed is {required_version}: {why}"
        if version > newest_version:
            return f"serves version {version}, the trainer is at {newest_version}"
        if not self._announced.is_current(version, replica.policy_digest):
            return f"serves other weights as version {version} than the trainer announced"
        return None if self.dispatcher.may_sample(replica, required_version) else "is about to leave"

    async def _read(self) -> None:
        try:
            replicas = await self._registry.replicas()
        except RedisError as error:
            if not self._away:
                logger.warning("cannot read the registry, keeping the last list: %s", error)
            self._away = True
            return
        if self._away:
            logger.info("the registry can be read again")
        self._away = False
        change = self._links.change()
        for replica in replicas:
            await self._note(replica, change)
        self.replicas = replicas
        self._metrics.replicas.set(sum(replica.ready for replica in replicas))
        alive = {replica.replica_id for replica in replicas}
        self.dispatcher.forget_except(alive)
        for name in [name for name in self._members if name not in alive]:
            await self._miss(name)

    async def _note(self, record: ReplicaRecord, change: int) -> None:
        member = self._members.get(record.replica_id)
        moved = member is not None and member.record.grpc_address != record.grpc_address
        renewed = member is not None and member.change != change and not member.client.calls
        if member is not None and not moved and not renewed:
            member.record = record
            return
        joined = _Member(record, self._links.open(record.grpc_address), change)
        self._members[record.replica_id] = joined  # before the old one ends: whoever chooses meanwhile finds one
        joined.question = asyncio.create_task(self._prove(joined), name=f"prove {record.replica_id}")
        if member is not None:
            if moved:
                member.client.abandon("the replica has another address now")
            await self._end(member)

    async def _miss(self, name: str) -> None:
        """The record of a member is gone: expired, or the replica leaves and finishes its calls."""
        member = self._members[name]
        if not member.client.calls:
            await self._forget(name)
        elif member.question is None or member.question.done():
            member.question = asyncio.create_task(self._watch_leaving(member), name=f"miss {name}")

    async def _forget(self, name: str) -> None:
        await self._end(self._members.pop(name))

    async def _end(self, member: _Member) -> None:
        if member.question is not None:
            await end_tasks(member.question)
        await member.client.close()

    async def _prove(self, member: _Member) -> None:
        """Asks the replica what it is, until it answers."""
        name, wait, told = member.record.replica_id, URGENT_POLL_SECONDS, False
        while True:
            try:
                self._expected.check(member.record, await member.client.describe(DESCRIBE_SECONDS))
            except WrongReplicaError as error:
                member.wrong = printable(str(error))
                logger.error("replica %s gets no work: %s", name, member.wrong)
                return
            except GenerationError as error:
                if not told:
                    logger.warning("replica %s does not say what it is, asking again: %s", name, error)
                told = True
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_REPROOF_SECONDS)
            else:
                member.proved = True
                self._changed()
                return

    async def _watch_leaving(self, member: _Member) -> None:
        """Ends the calls to a replica whose record is gone when it does not answer either."""
        try:
            await member.client.describe(DESCRIBE_SECONDS)
        except GenerationError as error:
            member.client.abandon(f"the replica's record has expired and it does not answer: {error}")
        else:
            await asyncio.sleep(EXPIRY_SECONDS)
