"""Work for a client that may leave before it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from ais.collector.judging.harness.wire import CallRefusedError
from ais.runtime.tasks import end_tasks

Answer = TypeVar("Answer")


async def unless_left(request: Request, answer: Coroutine[Any, Any, Answer]) -> Answer:
    """What is answered. Where the client goes first, that is cancelled, and CallRefusedError is told to nobody."""
    answering, leaving = asyncio.create_task(answer), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise CallRefusedError(499, "the client has left", "client_left")
        return answering.result()
    finally:
        await end_tasks(answering, leaving)


async def _left(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
