"""What a flood is made of: connections that send something, until the service ends them or answers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.floods.services import Address

PIECE = bytes(1 << 16)
CLOSED = "closed"


@dataclass
class Tally:
    """What became of all connections of a flood."""

    opened: int = 0
    sent: int = 0
    """Bytes that the kernel took."""
    answers: Counter[str] = field(default_factory=Counter)
    """How the service ended them: a status of HTTP, or `closed`."""
    seconds: list[float] = field(default_factory=list)
    """From the opening of each to its end."""

    def record(self) -> dict[str, object]:
        return dict(vars(self))


async def attempt(address: Address, tally: Tally, head: bytes, body: Iterable[bytes], pause: float = 0.0) -> None:
    """Sends `head` and then pieces of `body`, each after a pause, until the service answers or closes."""
    begun, writer = time.perf_counter(), None
    tally.opened += 1
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        answer = asyncio.create_task(_answer(reader))
        try:
            writer.write(head)
            tally.sent += len(head)
            for piece in body:
                if answer.done():
                    break
                writer.write(piece)
                tally.sent += len(piece)
                await writer.drain()
                await asyncio.sleep(pause)
            told = await answer
        finally:
            answer.cancel()
    except OSError:
        told = CLOSED
    finally:
        if writer is not None:
            writer.close()
    tally.answers[told] += 1
    tally.seconds.append(time.perf_counter() - begun)


async def _answer(reader: asyncio.StreamReader) -> str:
    """The status, or that the connection was closed. What is no HTTP/1.1, such as a greeting of HTTP/2, is read on."""
    try:
        line = await reader.readuntil(b" ")
        if line == b"HTTP/1.1 ":
            return (await reader.readexactly(3)).decode()
        while await reader.read(1 << 16):
            pass
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    return CLOSED
