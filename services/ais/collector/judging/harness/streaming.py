"""An answer as server-sent events, in the chunks of OpenAI's API.

What cannot be answered is refused as any call is, before the stream begins. Its first chunk comes when the policy is
asked, the others when that has answered: tokens are told when they are all there, with their log-probs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ais.collector.judging.harness.answers import Completed, beginning, broken
from ais.collector.judging.harness.leaving import unless_left
from ais.collector.judging.harness.raw_answers import raw_beginning
from ais.collector.judging.harness.wire import Asked, CallRefusedError, Completion, Session
from ais.runtime.tasks import end_tasks


class Stream(StreamingResponse):
    """The stream of an answer. However it ends, nobody answers any more."""

    def __init__(self, chunks: AsyncIterator[bytes], answering: asyncio.Task[Completed]) -> None:
        super().__init__(chunks, headers={"cache-control": "no-cache"}, media_type="text/event-stream")
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await end_tasks(self._answering)


async def streamed(request: Request, session: Session, asked: Asked) -> Stream:
    """The stream of an answer. A client that leaves it has no turn. Raises CallRefusedError."""
    begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    answering = asyncio.create_task(session.complete(asked, begun.set_result))
    try:
        await unless_left(request, _first(answering, begun))
        if not begun.done():
            answering.result()
        return Stream(_chunks(request, session, asked, answering, begun.result()), answering)
    except BaseException:
        await end_tasks(answering)
        raise


async def _first(*either: asyncio.Future[Any]) -> None:
    """Returns when the policy is asked, or never will be."""
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)


async def _chunks(
    request: Request, session: Session, asked: Asked, answering: asyncio.Task[Completed], name: str
) -> AsyncIterator[bytes]:
    yield beginning(name) if isinstance(asked, Completion) else raw_beginning(name)
    try:
        completed = await unless_left(request, _result(answering))
    except CallRefusedError as error:
        session.refused = str(error)
        yield broken(error.body())
        return
    for chunk in completed.chunks(usage=asked.tells_usage):
        yield chunk


async def _result(answering: asyncio.Task[Completed]) -> Completed:
    return await answering
