"""Replicas that only speak the weights path, over real HTTP, registered in a real registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from fastapi import FastAPI, Request, Response

from services.contracts.registry import ReplicaRecord, ReplicaRegistry
from services.contracts.sampling import Precision
from services.contracts.weights import DIGEST_HEADER, ENCODING_FULL, ENCODING_HEADER, digest_of
from services.runtime.http import serve

Answer = Callable[[int], Awaitable[Response | None]]
"""Called with the version of an upload before it is applied; a response refuses it."""


class StandInReplica:
    """The weights path of a replica, with a switch for each way it can go wrong."""

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self.received: list[int] = []
        self.payload = b""
        self.answer: Answer | None = None
        self.changed = asyncio.Condition()
        self.app = FastAPI()
        self.app.put("/v1/weights/{version}")(self._put)

    async def _put(self, version: int, request: Request) -> Response:
        payload = await request.body()
        assert int(request.headers["content-length"]) == len(payload)
        assert request.headers[ENCODING_HEADER] == ENCODING_FULL
        assert request.headers[DIGEST_HEADER] == digest_of(payload)
        async with self.changed:
            self.received.append(version)
            self.changed.notify_all()
        if self.answer is not None and (refusal := await self.answer(version)) is not None:
            return refusal
        async with self.changed:
            self.version, self.payload = version, payload
            self.changed.notify_all()
        return Response(status_code=200)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition` holds; fails after ten seconds."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)


class Fleet:
    """Stand-in replicas in a real registry."""

    def __init__(self, registry: ReplicaRegistry, stack: AsyncExitStack) -> None:
        self._registry = registry
        self._stack = stack

    async def join(self, name: str, version: int = 0) -> StandInReplica:
        """Starts a replica that says it serves `version`, without a heartbeat: its record lives for five seconds."""
        replica = StandInReplica(name, version)
        port = await self._stack.enter_async_context(serve(replica.app, "127.0.0.1", 0))
        await self.register(name, f"http://127.0.0.1:{port}", version)
        return replica

    async def register(self, name: str, url: str, version: int = 0) -> None:
        await self._registry.heartbeat(
            ReplicaRecord(
                replica_id=name,
                grpc_address="127.0.0.1:1",
                http_url=url,
                engine="stand-in",
                precision=Precision(),
                model_type="qwen3",
                vocab_size=22,
                parameter_count=1,
                policy_version=version,
                policy_digest="sha256:0",
                ready=True,
                slots=1,
                running_sequences=0,
                waiting_sequences=0,
            )
        )
