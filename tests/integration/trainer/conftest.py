"""Fixtures of the trainer's integration tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.runtime.tasks import end_tasks
from tests.support.replicas.replica_stand_ins import Fleet


@pytest.fixture
async def fleet(redis: Redis, keys: Keys, tmp_path: Path) -> AsyncIterator[Fleet]:
    staging = tmp_path / "replicas"
    staging.mkdir()
    async with AsyncExitStack() as stack:
        fleet = Fleet(ReplicaRegistry(redis, keys), stack, staging)
        heartbeats = asyncio.create_task(fleet.beat())
        yield fleet
        await end_tasks(heartbeats)
