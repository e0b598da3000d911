"""A replica's process, as those see it who have a token: what the run's lease allows, and tokens that change."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.runtime.security.roles import Role
from ais.runtime.security.tokens import new_token, token_path
from tests.support.access import bearer, tokens
from tests.support.recordings import recorded_group, recording
from tests.support.replicas.pushing import push
from tests.support.replicas.replica_process import overrides, process, registered

MODEL = Path(__file__).parents[3] / "examples" / "sort16" / "model"


@dataclass
class Replica:
    """Where it listens, and the tokens that it reads."""

    url: str
    tokens: Path


@pytest.fixture
async def replica(redis: Redis, redis_url: str, run_name: str, keys: Keys, tmp_path: Path) -> AsyncIterator[Replica]:
    own = Path(shutil.copytree(tokens(), tmp_path / "tokens"))
    recorded = recording(tmp_path, recorded_group([1, 2, 3], [100]))
    replay = ("rollout.engine=replay", f"rollout.replay.recording={recorded}", f"security.tokens={own}")
    async with process(*overrides(MODEL, redis_url, run_name, *replay)):
        yield Replica((await registered(ReplicaRegistry(redis, keys))).http_url, own)


async def test_a_trainer_that_the_lease_does_not_know_is_refused_and_changes_nothing(
    replica: Replica, redis: Redis, keys: Keys
) -> None:
    body = (MODEL / "model.safetensors").read_bytes()
    await redis.mset({keys.identity: "the-run", keys.incarnation: 1})
    async with httpx.AsyncClient(base_url=replica.url, headers=bearer(Role.TRAINER), trust_env=False) as client:
        claimed = await push(client, 9, body, run="the-run", incarnation=2)
        assert (claimed.status_code, claimed.json()["field"]) == (409, "incarnation")
        assert (await push(client, 3, body, run="the-run", incarnation=1)).status_code == 200
        assert (await push(client, 9, body, run="the-run", incarnation=2)).status_code == 409
        await redis.set(keys.incarnation, 2)
        assert (await push(client, 4, body, run="the-run", incarnation=2)).status_code == 200


async def test_a_token_is_changed_without_a_restart_and_without_a_call_that_fails(replica: Replica) -> None:
    old, new = bearer(Role.METRICS), new_token()
    file = token_path(replica.tokens, Role.METRICS)

    async def statuses() -> list[int]:
        presented = (old, {"authorization": f"Bearer {new.strip()}"})
        async with httpx.AsyncClient(base_url=replica.url, trust_env=False) as client:
            return [(await client.get("/metrics", headers=headers)).status_code for headers in presented]

    assert await statuses() == [200, 401]
    file.write_text(file.read_text(encoding="utf-8") + new, encoding="utf-8")
    assert await statuses() == [200, 200]
    file.write_text(new, encoding="utf-8")
    assert await statuses() == [401, 200]
