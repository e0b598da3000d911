"""The users that `ais secrets` makes, at a real server: each can do its work, and no more."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from ais.contracts.keys import Keys
from ais.contracts.redis_commands import collector_commands, replica_commands, trainer_commands
from ais.contracts.registry import ReplicaRegistry
from ais.issuing import ACL, PASSWORD, issue
from ais.runtime.network.redis import Command, RedisUnreachableError, connect
from ais.runtime.settings import RedisSettings
from tests.support.valkey_process import ValkeyProcess

KEYS = Keys("closed")
NEEDS = {
    "trainer": trainer_commands(KEYS),
    "collector": collector_commands(KEYS),
    "rollout": replica_commands(KEYS),
    "evaluation": replica_commands(Keys("closed-evaluation-bf16")),
}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("users") / "secrets"
    assert list(issue(directory))
    return directory


@pytest.fixture(scope="module")
def server(secrets: Path) -> Iterator[ValkeyProcess]:
    with ValkeyProcess(secrets.parent, "--aclfile", str(secrets / ACL)) as server:
        yield server


@asynccontextmanager
async def connected(
    server: ValkeyProcess, user: str, password: Path, needs: list[tuple[str, ...]] | tuple[Command, ...] = ()
) -> AsyncIterator[Redis]:
    client = await connect(RedisSettings(url=f"redis://{user}@{server.address}/0", password_file=password), needs)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.mark.parametrize("service", NEEDS)
async def test_a_service_may_do_all_that_it_needs(server: ValkeyProcess, secrets: Path, service: str) -> None:
    async with connected(server, service, secrets / service / PASSWORD, NEEDS[service]) as client:
        assert await client.ping()


@pytest.mark.parametrize("service", ["rollout", "evaluation"])
async def test_who_samples_can_write_neither_groups_nor_events(
    server: ValkeyProcess, secrets: Path, service: str
) -> None:
    async with connected(server, service, secrets / service / PASSWORD) as client:
        for stream in (KEYS.groups, KEYS.events):
            with pytest.raises(NoPermissionError):
                await client.xadd(stream, {"kind": "version"})
        for key in (KEYS.identity, KEYS.incarnation):
            with pytest.raises(NoPermissionError):
                await client.set(key, "9")
        with pytest.raises(NoPermissionError):
            await client.config_get("requirepass")


FORBIDDEN = {
    "collector": [
        ("SET", KEYS.incarnation, "9"),
        ("MSET", KEYS.identity, "mine"),
        ("HSET", KEYS.position, "version", "9"),
        ("XADD", KEYS.events, "*", "kind", "version"),
        ("XREADGROUP", "GROUP", "trainer", "thief", "STREAMS", KEYS.groups, ">"),
        ("XDEL", KEYS.groups, "0-1"),
        ("DEL", KEYS.groups),
        ("XRANGE", KEYS.dead_letters, "-", "+"),
        ("SET", KEYS.replica("mine"), "{}"),
    ],
    "trainer": [
        ("SET", KEYS.replica("mine"), "{}"),
        ("SADD", KEYS.replicas, "mine"),
        ("HSETNX", KEYS.evaluations, "9", "{}"),
        ("DEL", KEYS.groups),
        ("KEYS", "*"),
    ],
}


@pytest.mark.parametrize("service", FORBIDDEN)
async def test_trainer_and_collector_may_do_no_more_than_their_own_work(
    server: ValkeyProcess, secrets: Path, service: str
) -> None:
    async with connected(server, service, secrets / service / PASSWORD) as client:
        for command in FORBIDDEN[service]:
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command)


async def test_a_replica_registers_and_leaves_as_its_own_user(server: ValkeyProcess, secrets: Path) -> None:
    async with connected(server, "rollout", secrets / "rollout" / PASSWORD) as client:
        await ReplicaRegistry(client, KEYS).leave("gone")
        assert await client.mget(KEYS.identity, KEYS.incarnation) == [None, None]


async def test_a_stranger_may_only_ask_whether_the_server_lives(server: ValkeyProcess) -> None:
    async with Redis.from_url(server.url) as stranger:
        assert await stranger.ping()
        with pytest.raises(NoPermissionError):
            await stranger.get(KEYS.identity)
    with pytest.raises(RedisUnreachableError, match="may not use MULTI"):
        await connect(RedisSettings.model_validate({"url": server.url}))


async def test_the_password_of_another_service_is_refused_and_never_shown(server: ValkeyProcess, secrets: Path) -> None:
    with pytest.raises(RedisUnreachableError, match="refuses this client") as refused:
        async with connected(server, "trainer", secrets / "rollout" / PASSWORD):
            pass
    assert (secrets / "rollout" / PASSWORD).read_text(encoding="utf-8").strip() not in str(refused.value)


async def test_a_password_that_has_changed_counts_at_the_next_connection(server: ValkeyProcess, secrets: Path) -> None:
    password = secrets / "collector" / PASSWORD
    changing = secrets.parent / "changing"
    shutil.copyfile(password, changing)
    changing.chmod(0o600)
    async with connected(server, "collector", changing) as client:
        changing.write_text("a-password-that-is-wrong\n", encoding="utf-8")
        await client.connection_pool.disconnect()
        with pytest.raises(AuthenticationError):
            await client.ping()
        shutil.copyfile(password, changing)
        assert await client.ping()
