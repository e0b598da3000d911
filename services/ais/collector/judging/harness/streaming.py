"""An answer as server-sent events, in the chunks of OpenAI's API.

What cannot be answered is refused as any call is, before the stream begins: it begins with the first tokens that the
policy samples. What is sampled while the client reads slowly is told together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ais.collector.judging.harness.answers import ChatChunks, Completed, Piece, broken
from ais.collector.judging.harness.leaving import unless_left
from ais.collector.judging.harness.raw_answers import RawChunks
from ais.collector.judging.harness.wire import Asked, CallRefusedError, Completion, Session
from ais.runtime.tasks import end_tasks


class Stream(StreamingResponse):
    """The stream of an answer. However it ends, as when the client leaves, nobody answers any more."""

    def __init__(self, chunks: AsyncIterator[bytes], answering: asyncio.Task[Completed]) -> None:
        super().__init__(chunks, headers={"cache-control": "no-cache"}, media_type="text/event-stream")
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await end_tasks(self._answering)


class Letterbox:
    """What of an answer has been sampled and not been told."""

    def __init__(self) -> None:
        self.name = ""
        """The answer's, once it has begun."""
        self._piece = Piece()
        self._news = asyncio.Event()

    def put(self, name: str, piece: Piece) -> None:
        """More of the answer; it begins with the first, though that may say nothing."""
        self.name = name
        self._piece = self._piece.then(piece) if self._piece else piece
        self._news.set()

    def stir(self) -> None:
        """There will be no more."""
        self._news.set()

    async def news(self) -> None:
        """Returns when there is more, or there will be no more."""
        await self._news.wait()
        self._news.clear()

    def take(self) -> Piece:
        """All there is."""
        piece, self._piece = self._piece, Piece()
        return piece


async def streamed(request: Request, session: Session, asked: Asked) -> Stream:
    """The stream of an answer. A client that leaves it has no turn. Raises CallRefusedError."""
    box = Letterbox()
    answering = asyncio.create_task(session.complete(asked, box.put))
    answering.add_done_callback(lambda _: box.stir())
    try:
        await unless_left(request, box.news())
        name = box.name or answering.result().name
        return Stream(_chunks(session, asked, answering, box, name), answering)
    except BaseException:
        await end_tasks(answering)
        raise


async def _chunks(
    session: Session, asked: Asked, answering: asyncio.Task[Completed], box: Letterbox, name: str
) -> AsyncIterator[bytes]:
    kind: type[ChatChunks | RawChunks] = ChatChunks if isinstance(asked, Completion) else RawChunks
    chunks, characters, tokens = kind(name, usage=asked.tells_usage), 0, 0
    yield chunks.beginning()
    while not answering.done():
        if piece := box.take():
            characters, tokens = characters + len(piece.text), tokens + len(piece.token_ids)
            yield chunks.more(piece)
        else:
            await box.news()
    try:
        completed = answering.result()
    except CallRefusedError as error:
        session.refused = str(error)
        yield broken(error.body())
        return
    for chunk in chunks.ending(completed, completed.since(characters, tokens)):
        yield chunk
