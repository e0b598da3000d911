"""Fixtures of the trainer's integration tests."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis
from replica_stand_ins import Fleet

from services.contracts.keys import Keys
from services.contracts.registry import ReplicaRegistry

sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "trainer"))  # trainer_groups


@pytest.fixture
async def fleet(redis: Redis, keys: Keys, tmp_path: Path) -> AsyncIterator[Fleet]:
    staging = tmp_path / "replicas"
    staging.mkdir()
    async with AsyncExitStack() as stack:
        yield Fleet(ReplicaRegistry(redis, keys), stack, staging)
