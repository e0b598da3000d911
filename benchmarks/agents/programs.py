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
    first: list[float] = field(default_factory=list)
    """Seconds until the first text of each streamed answer."""
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
            body = {"model": "any", "messages": messages, "stream": asked.stream}
            answer = await connection.call(f"{told['path']}/chat/completions", body)
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
        began = time.monotonic()
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        if any(one.lower().startswith("transfer-encoding: chunked") for one in fields):
            return await self._streamed(reader, began)
        length = next(int(one.partition(":")[2]) for one in fields if one.lower().startswith("content-length:"))
        answer = await reader.readexactly(length)
        if status.split()[1] != "200":
            raise RuntimeError(f"{path}: {status} {answer[:300]!r}")
        return json.loads(answer)

    async def _streamed(self, reader: asyncio.StreamReader, began: float) -> dict[str, Any]:
        """The answer that is put together of a stream's chunks."""
        text = ""
        while length := int(await reader.readline(), 16):
            for event in (await reader.readexactly(length + 2)).strip().split(b"\n\n"):
                if event == b"data: [DONE]":
                    continue
                chunk = json.loads(event.removeprefix(b"data: "))
                if "error" in chunk:
                    raise RuntimeError(f"a stream was broken: {chunk}")
                new = chunk["choices"][0]["delta"].get("content", "")
                if new and not text:
                    self._played.first.append(time.monotonic() - began)
                text += new
        await reader.readexactly(2)
        return {"choices": [{"message": {"content": text}}]}
