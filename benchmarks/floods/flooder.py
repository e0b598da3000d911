"""`python -m benchmarks.floods.flooder FLOOD GENERATION CONTROL SHARED TOKENS SCALE`: one flood, until its input ends.

It says `begun` when the flood is under way, and ends with a line of JSON: what became of its connections. The floods
are in the table below.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from ais.runtime.security.keyring import Keyring
from ais.runtime.security.roles import Role
from ais.runtime.tasks import end_tasks
from benchmarks.floods.attempts import PIECE, Tally, attempt
from benchmarks.floods.services import Address

AGAIN_SECONDS = 1.0
"""After this a connection that was ended is opened anew."""
BEGIN_SECONDS = 2.0
"""After this a flood is under way."""
ENORMOUS = 10_000_000_000
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""A whole greeting of HTTP/2, after which nothing is asked."""


@dataclass(frozen=True)
class Targets:
    """Where the services listen, and the headers of who has a token; a stranger has none."""

    generation: Address
    control: Address
    shared: Address
    trainer: str
    metrics: str

    @property
    def http(self) -> tuple[Address, Address]:
        return self.control, self.shared


One = Callable[[Tally], Awaitable[None]]


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: service", *lines, "", "")).encode()


def chunks() -> Iterator[bytes]:
    """A body without a length that never ends."""
    return repeat(f"{len(PIECE):x}\r\n".encode() + PIECE + b"\r\n")


def waiting(address: Address, first: bytes) -> One:
    """Sends `first`, and nothing more."""
    return lambda tally: attempt(address, tally, first, ())


def sending(address: Address, first: bytes, body: Callable[[], Iterable[bytes]], pause: float = 0.0) -> One:
    return lambda tally: attempt(address, tally, first, body(), pause)


def idle(to: Targets, scale: float) -> Iterator[One]:
    """1,000 connections to each listener; half of those to gRPC have said what they speak."""
    for number in range(round(1000 * scale)):
        yield from (waiting(one, b"") for one in to.http)
        yield waiting(to.generation, GREETING if number % 2 else b"")


def bodies(to: Targets, copies: int, *lines: str, body: Callable[[], Iterable[bytes]], pause: float) -> Iterator[One]:
    """Offers of weights, half of them of strangers, to both HTTP listeners."""
    for _ in range(copies):
        for address in to.http:
            for credential in ((), (to.trainer,)):
                yield sending(address, head("PUT", "/v1/weights/1", *credential, *lines), body, pause)


def slow(to: Targets, scale: float) -> Iterator[One]:
    """128 bodies of which a byte comes each second."""
    copies, length = round(32 * scale), "Content-Length: 1000000"
    yield from bodies(to, copies, length, body=lambda: repeat(b" "), pause=1.0)


def announced(to: Targets, scale: float) -> Iterator[One]:
    """32 bodies of 10 GB, as their heads say."""
    yield from bodies(to, round(8 * scale), f"Content-Length: {ENORMOUS}", body=lambda: repeat(PIECE), pause=0.0)


def streamed(to: Targets, scale: float) -> Iterator[One]:
    """32 bodies without a length that do not end."""
    yield from bodies(to, round(8 * scale), "Transfer-Encoding: chunked", body=chunks, pause=0.0)


def endless(to: Targets, scale: float) -> Iterator[One]:
    """40 streams of strangers: bodies to a path that is open, heads that do not end, and bytes that are no HTTP/2."""
    for _ in range(round(8 * scale)):
        for address in to.http:
            yield sending(address, head("GET", "/healthz", "Transfer-Encoding: chunked"), chunks)
            yield sending(address, head("GET", "/healthz")[:-2], lambda: repeat(b"X-More: " + b"x" * 1000 + b"\r\n"))
        yield sending(to.generation, GREETING, lambda: repeat(PIECE))


def scrapes(to: Targets, scale: float) -> Iterator[One]:
    """200 readings of /metrics at once of each HTTP listener."""
    for _ in range(round(200 * scale)):
        for address in to.http:
            yield waiting(address, head("GET", "/metrics", to.metrics, "Connection: close"))


FLOODS: dict[str, Callable[[Targets, float], Iterator[One]]] = {
    one.__name__: one for one in (idle, slow, announced, streamed, endless, scrapes)
}


@asynccontextmanager
async def flooding(flood: Iterable[One]) -> AsyncIterator[Tally]:
    """All connections of a flood, opened anew when they end, while the context is open."""
    tally = Tally()

    async def again(one: One) -> None:
        while True:
            await one(tally)
            await asyncio.sleep(AGAIN_SECONDS)

    tasks = [asyncio.create_task(again(one)) for one in flood]
    try:
        yield tally
    finally:
        await end_tasks(*tasks)


def targets(generation: str, control: str, shared: str, tokens: str) -> Targets:
    keyring = Keyring(Path(tokens))
    trainer, metrics = (
        f"Authorization: {keyring.credential(role).headers()['authorization']}" for role in (Role.TRAINER, Role.METRICS)
    )
    return Targets(Address.of(generation), Address.of(control), Address.of(shared), trainer, metrics)


async def main(name: str, addresses: list[str], scale: float) -> None:
    async with flooding(FLOODS[name](targets(*addresses), scale)) as tally:
        await asyncio.sleep(BEGIN_SECONDS)
        print("begun", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        told = json.dumps(tally.record())
    print(told, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:6], float(sys.argv[6])))
