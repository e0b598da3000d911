"""The programs: each plays one episode over a connection of its own, by plain HTTP, so that they cost little."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from benchmarks.agents.episodes import episode
from benchmarks.agents.server import Asked

MOST_TRIES = 3
"""A call whose connection is closed unanswered is made again, as OpenAI's client does."""


@dataclass
class Played:
    """What came of a run."""

    turns: int = 0
    lost: int = 0
    processor_seconds: float = 0.0
    wall_seconds: float = 0.0
    resident: dict[int, int] = field(default_factory=dict)
    """Bytes by episodes that were over."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each call."""
    repeated: int = 0
    """Calls that were made again."""


async def play(asked: Asked) -> Played:
    """Has a server of its own play all episodes. Raises RuntimeError where that ends early or refuses a call."""
    command = (sys.executable, "-m", "benchmarks.agents.server", asked.written())
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    played, address, began = Played(), "", time.monotonic()
    programs: set[asyncio.Task[None]] = set()
    try:
        async for line in server.stdout:
            told = json.loads(line)
            if "address" in told:
                address, began = told["address"], time.monotonic()
            elif "episode" in told:
                programs.add(asyncio.create_task(_program(asked, address, told, played)))
            elif "resident" in told:
                played.resident[told["done"]] = told["resident"]
            else:
                played.turns, played.lost = told["turns"], told["lost"]
                played.processor_seconds = told["processor_seconds"]
            for over in [one for one in programs if one.done()]:
                over.result()
                programs.discard(over)
        if await server.wait() or not played.turns:
            raise RuntimeError(f"the server ended with exit code {server.returncode}")
        await asyncio.gather(*programs)
    finally:
        for one in programs:
            one.cancel()
        if server.returncode is None:
            server.kill()
            await server.wait()
    played.wall_seconds = time.monotonic() - began
    return played


async def _program(asked: Asked, address: str, told: dict[str, Any], played: Played) -> None:
    replayed = episode(told["episode"], asked.shape)
    connection = Connection(address, told["key"], played)
    messages: list[dict[str, str]] = []
    try:
        for said in replayed.said:
            messages.append({"role": "user", "content": said})
            began = time.monotonic()
            answer = await connection.call(f"{told['path']}/chat/completions", {"model": "any", "messages": messages})
            played.latencies.append(time.monotonic() - began)
            messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        await connection.call(f"{told['path']}/end", {"reward": 1.0})
    finally:
        connection.close()


class Connection:
    """One program's, kept open between its calls."""

    def __init__(self, address: str, key: str, played: Played) -> None:
        parts = urlsplit(address)
        self._host, self._port, self._key, self._played = parts.hostname, parts.port, key, played
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, path: str, body: dict[str, Any]) -> Any:
        """The answer's JSON. Raises RuntimeError for a refusal, ConnectionError when no try is left."""
        for left in reversed(range(MOST_TRIES)):
            try:
                return await self._call(path, json.dumps(body).encode())
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self.close()
                if not left:
                    raise ConnectionError(f"{path}: not answered in {MOST_TRIES} tries") from error
                self._played.repeated += 1
        raise AssertionError

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _call(self, path: str, body: bytes) -> Any:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\nauthorization: Bearer {self._key}\r\n"
        writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(one.partition(":")[2]) for one in fields if one.lower().startswith("content-length:"))
        answer = await reader.readexactly(length)
        if status.split()[1] != "200":
            raise RuntimeError(f"{path}: {status} {answer[:300]!r}")
        return json.loads(answer)
