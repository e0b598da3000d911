"""A real network link that loses packets: two TUN devices, one in a network namespace, and this program between them.

The kernel's own `tc netem` is not in every kernel. Dropping IP packets in user space needs only TUN, and TCP at both
ends is the kernel's, with its retransmissions. Needs root.

    python lossy_link.py NAMESPACE LOSS DELAY_SECONDS

Prints the two addresses, runs until its standard input ends, prints how many packets were lost.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import struct
import subprocess
import sys

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PACKET_BYTES = 2048
QUEUE_PACKETS = 4000


def open_tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class Link:
    """Forwards packets both ways, each later by the delay, or never."""

    def __init__(self, loss: float, delay_seconds: float) -> None:
        self._loss = loss
        self._delay_seconds = delay_seconds
        self._random = random.Random(0)
        self.lost = 0

    def join(self, source: int, target: int) -> None:
        loop = asyncio.get_running_loop()

        def readable() -> None:
            for _ in range(64):
                try:
                    packet = os.read(source, PACKET_BYTES)
                except BlockingIOError:
                    return
                if self._random.random() < self._loss:
                    self.lost += 1
                else:
                    loop.call_later(self._delay_seconds, os.write, target, packet)

        loop.add_reader(source, readable)


async def main(namespace: str, loss: float, delay_seconds: float) -> None:
    subnet = random.SystemRandom().randrange(1, 250)
    here, there = f"10.213.{subnet}.1", f"10.213.{subnet}.2"
    names = f"ais{subnet}a", f"ais{subnet}b"
    near, far = map(open_tun, names)
    ip("link", "set", names[1], "netns", namespace)
    for prefix, name, own, other in (((), names[0], here, there), (("-n", namespace), names[1], there, here)):
        ip(*prefix, "address", "add", own, "peer", other, "dev", name)
        ip(*prefix, "link", "set", name, "txqueuelen", str(QUEUE_PACKETS), "up")
    link = Link(loss, delay_seconds)
    link.join(near, far)
    link.join(far, near)
    print(here, there, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(link.lost, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
