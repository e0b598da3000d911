"""Connecting to Redis."""

from __future__ import annotations

import pytest

from ais.runtime.redis import RedisUnreachableError, connect
from ais.runtime.settings import RedisSettings


async def test_an_unreachable_server_is_named_without_its_password() -> None:
    settings = RedisSettings(url="redis://user:secret@127.0.0.1:1/0", connect_timeout_seconds=0.2)
    with pytest.raises(RedisUnreachableError) as error:
        await connect(settings)
    assert "redis://user:***@127.0.0.1:1/0" in str(error.value)
    assert "secret" not in str(error.value)


async def test_a_settings_section_without_a_url_says_what_to_do() -> None:
    with pytest.raises(RedisUnreachableError, match=r"redis\.url"):
        await connect(RedisSettings())


async def test_a_reachable_server_answers(redis_url: str) -> None:
    client = await connect(RedisSettings(url=redis_url))
    assert await client.ping()
    await client.aclose()
