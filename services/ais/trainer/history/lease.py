"""One trainer a run: a lock on the run's directory, and a number that fences off whoever came before.

The lock keeps two trainers on one machine (or one shared file system) apart. The incarnation, kept in Redis and in the
directory, is larger for each trainer than for all before it: replicas and commits refuse what an older one still sends.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

from pydantic import TypeAdapter
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.limits import HIGHEST_VERSION
from ais.runtime.files import replace_file
from ais.runtime.network.patience import persist
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RunSettings
from ais.runtime.text import printable

LOCK_FILE = "trainer.lock"
OWNER_FILE = "trainer.json"
LOCK_SECONDS = 15.0
"""How long a trainer that is about to end is waited for."""
LOCK_POLL_SECONDS = 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Owner:
    """What the directory knows of its trainers."""

    identity: str
    """The run's own name for itself. Redis has the same, so a directory and a server of two runs are noticed."""
    incarnation: int
    groups_per_batch: int
    """Ordinals and batches mean what they do by this number: it cannot change in mid-run."""


_OWNER = TypeAdapter(_Owner)


class Lease:
    """The right to train a run."""

    def __init__(self, redis: Redis, keys: Keys, identity: str, incarnation: int) -> None:
        self._redis = redis
        self._keys = keys
        self.identity = identity
        """The run's: it stands in Redis, in its directory and in every offer of weights."""
        self.incarnation = incarnation
        """Number of this trainer among those of the run, from 1."""

    async def check(self) -> None:
        """Raises UnavailableError when a later trainer has taken over."""
        newest = _number(cast(bytes | None, await self._redis.get(self._keys.incarnation)))
        if newest > self.incarnation:
            raise UnavailableError(
                f"trainer {newest} of this run has taken over from this one, trainer {self.incarnation}, which ends "
                "without committing anything more"
            )


@asynccontextmanager
async def take_lease(redis: Redis, run: RunSettings, patience_seconds: float) -> AsyncIterator[Lease]:
    """Holds the run while the context is open. `patience_seconds`: how long a Redis that is away is waited for.

    Raises UnavailableError when another trainer holds it, when Redis has the state of another run of this name, or when
    settings differ that cannot change in mid-run; RedisUnreachableError.
    """
    keys = Keys(run.name)
    run.path.mkdir(parents=True, exist_ok=True)
    with (run.path / LOCK_FILE).open("a", encoding="utf-8") as lock:
        await _lock(lock, run)
        owner = _read(run.path)
        identity, latest = await persist(partial(redis.mget, [keys.identity, keys.incarnation]), patience_seconds)
        _check(printable(cast(bytes, identity or b"")), run, owner)
        owner = _Owner(
            identity=owner.identity if owner else uuid.uuid4().hex,
            incarnation=max(_number(cast(bytes | None, latest)), owner.incarnation if owner else 0) + 1,
            groups_per_batch=run.groups_per_batch,
        )
        _write(run.path, owner)
        ours: dict[str, str | int] = {keys.identity: owner.identity, keys.incarnation: owner.incarnation}
        await persist(lambda: redis.mset(ours), patience_seconds)
        yield Lease(redis, keys, owner.identity, owner.incarnation)


def _number(value: bytes | None) -> int:
    """The incarnation kept in Redis; 0 where there is none, or where somebody wrote something else over it."""
    if value is None:
        return 0
    if value.isdigit() and len(value) <= 16 and int(value) < HIGHEST_VERSION:
        return int(value)
    logger.warning("the incarnation in Redis is not a trainer's number and counts as 0: %s", printable(value, 100))
    return 0


async def _lock(lock: IO[str], run: RunSettings) -> None:
    try:
        async with asyncio.timeout(LOCK_SECONDS):
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(LOCK_POLL_SECONDS)
                else:
                    return
    except TimeoutError:
        raise UnavailableError(
            f"another trainer runs on {run.path}. One trains a run; end that one first, or choose another run.name."
        ) from None


def _check(identity: str, run: RunSettings, owner: _Owner | None) -> None:
    """`identity`: what Redis knows of the run; empty: nothing."""
    if identity and (owner is None or identity != owner.identity):
        raise UnavailableError(
            f"Redis holds a run {run.name!r} that is not the one of {run.path}. Choose another run.name, set "
            "run.directory to where that run is, or remove its Redis keys."
        )
    if owner is not None and owner.groups_per_batch != run.groups_per_batch:
        raise UnavailableError(
            f"{run.path} was begun with run.groups_per_batch = {owner.groups_per_batch}, and cannot go on with "
            f"{run.groups_per_batch}: groups in the queue belong to batches of that size."
        )


def _read(directory: Path) -> _Owner | None:
    file = directory / OWNER_FILE
    try:
        return _OWNER.validate_json(file.read_bytes()) if file.is_file() else None
    except ValueError as error:
        raise UnavailableError(
            f"{file} is not what a trainer has written: {error}. Restore it, or start another run."
        ) from error


def _write(directory: Path, owner: _Owner) -> None:
    replace_file(directory / OWNER_FILE, json.dumps(asdict(owner)) + "\n")
