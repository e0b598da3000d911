"""A TCP proxy whose network a test breaks: what toxiproxy does, in the test's own event loop.

Everything on the way through one `Proxy` suffers the same fault, connections that stand as well as new ones. Loss of
packets looks to TCP's users like `stall`: the kernel sends again, 200 ms later and then twice that.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ais.runtime.tasks import end_tasks

PIECE_BYTES = 64 * 1024
RETRANSMISSION_SECONDS = 0.2


class Proxy:
    """Forwards to one address. Healthy at first; `heal` makes it so again, but for what has been cut or lost."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._forwarding = asyncio.Event()
        self._forwarding.set()
        self._refusing = False
        self._delay_seconds = 0.0
        self._bytes_per_second: float | None = None
        self._stall_share = 0.0
        self._random = random.Random(0)
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.accepted = 0
        """Connections so far."""
        self.forwarded = 0
        """Bytes so far, both ways."""
        self.suffered = 0
        """Connections cut, reset or refused, and pieces held or stalled so far: somebody has met the fault."""

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[int]:
        """Gives the port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self.port
        finally:
            server.close()
            await end_tasks(*self._connections)

    def heal(self) -> None:
        self._refusing = False
        self._delay_seconds, self._bytes_per_second, self._stall_share = 0.0, None, 0.0
        self._forwarding.set()

    def cut(self) -> None:
        """Closes what stands and whatever comes, in an orderly way: a server that went away."""
        self._refusing = True
        self.suffered += len(self._writers)
        for writer in self._writers:
            writer.close()

    def reset(self) -> None:
        """Cuts what stands with an RST, as a firewall does; new connections are forwarded."""
        self.suffered += len(self._writers)
        for writer in self._writers:
            endpoint = writer.get_extra_info("socket")
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def blackhole(self) -> None:
        """Forwards nothing more and closes nothing: both ends believe in their half-open connections."""
        self._forwarding.clear()

    def forget(self) -> None:
        """After a blackhole: connections that stood stay dead for ever, new ones are forwarded."""
        self._forwarding = asyncio.Event()
        self._forwarding.set()

    def delay(self, seconds: float) -> None:
        """Every piece, each way, arrives this much later."""
        self._delay_seconds = seconds

    def limit(self, bytes_per_second: float) -> None:
        """For each direction of each connection."""
        self._bytes_per_second = bytes_per_second

    def stall(self, share: float) -> None:
        """This share of the pieces is lost once and sent again."""
        self._stall_share = share

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.accepted += 1
        try:
            with suppress(asyncio.CancelledError):  # the proxy ends: asyncio would report it as an error of a callback
                if self._refusing:
                    self.suffered += 1
                else:
                    await self._connect(client, to_client)
        finally:
            to_client.close()
            self._connections.discard(task)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        forwarding = self._forwarding
        await forwarding.wait()
        try:
            upstream, to_upstream = await asyncio.open_connection(*self._upstream)
        except OSError:
            return
        pair = {to_client, to_upstream}
        self._writers |= pair
        ways = [
            asyncio.create_task(self._forward(client, to_upstream, forwarding)),
            asyncio.create_task(self._forward(upstream, to_client, forwarding)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(*ways)
            self._writers -= pair
            to_upstream.close()

    async def _forward(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, forwarding: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                await self._suffer(len(data))
                self.suffered += not forwarding.is_set()
                await forwarding.wait()
                target.write(data)
                self.forwarded += len(data)
                await target.drain()
            await forwarding.wait()  # the end of a connection gets no further than its data

    async def _suffer(self, size: int) -> None:
        seconds = self._delay_seconds
        if self._bytes_per_second is not None:
            seconds += size / self._bytes_per_second
        wait = RETRANSMISSION_SECONDS
        while self._random.random() < self._stall_share:
            self.suffered += 1
            seconds += wait
            wait *= 2
        if seconds:
            await asyncio.sleep(seconds)
