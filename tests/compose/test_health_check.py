"""The health check of our images, against a service with TLS and one without."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from ais.runtime.metrics.registry import service_registry
from ais.runtime.network.http import application, serve
from ais.runtime.security.keyring import Keyring
from ais.runtime.security.roles import Role
from tests.support.access import tokens
from tests.support.access.deployment import certificates, secrets


async def probed(repository: Path, port: int, own: Path | None) -> bool:
    environment = {**os.environ, **({"AIS_SECURITY__CERTIFICATES": str(own)} if own else {})}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(repository / "deploy/probe.py"), f"127.0.0.1:{port}"),
        env=environment, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    return await process.wait() == 0


@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "plain"])
async def test_the_health_check_tells_a_service_that_is_ready_from_one_that_is_not(repository: Path, tls: bool) -> None:
    reasons: list[str | None] = [None, "loading"]
    app = application("test", service_registry("test"), lambda: reasons[0])
    door = Keyring(tokens(), certificates("trainer") if tls else None).door(Role.METRICS)
    own = secrets() / "trainer" if tls else None
    async with serve(app, "127.0.0.1", 0, door) as port:
        assert await probed(repository, port, own)
        assert await probed(repository, port, None if tls else secrets() / "trainer") is False
        reasons.pop(0)
        assert await probed(repository, port, own) is False
