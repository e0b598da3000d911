"""Fixtures of the trainer's integration tests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis
from replica_stand_ins import Fleet

from services.contracts.keys import Keys
from services.contracts.registry import ReplicaRegistry
from services.runtime.tasks import end_tasks

sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "trainer"))  # trainer_groups


@pytest.fixture
async def fleet(redis: Redis, keys: Keys, tmp_path: Path) -> AsyncIterator[Fleet]:
    staging = tmp_path / "replicas"
    staging.mkdir()
    async with AsyncExitStack() as stack:
        fleet = Fleet(ReplicaRegistry(redis, keys), stack, staging)
        heartbeats = asyncio.create_task(fleet.beat())
        yield fleet
        await end_tasks(heartbeats)
