"""A Redis server, the exporter as compose starts it, and what can go wrong with the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import redis
import yaml

from ais.issuing import ACL, EXPORTED, EXPORTER, PASSWORD, PASSWORDS
from ais.launcher.processes.commands import LOOPBACK, free_port
from benchmarks.support.forwarder import behind_tls
from tests.support.access.deployment import certificates, secrets
from tests.support.alarms.disk import SmallDisk
from tests.support.monitoring.prometheus import ROOT, program
from tests.support.valkey_process import ValkeyProcess

MAXMEMORY_MB = 16
EXPORTER_PROGRAM = "prometheus-redis-exporter"
COMPOSE_SECRETS = "/etc/ais/secrets"


@dataclass(frozen=True)
class Exported:
    """A server with the users of `ais secrets`, and its exporter."""

    server: ValkeyProcess
    disk: SmallDisk
    """Where the server writes."""
    address: str
    """Where the exporter listens."""

    def client(self, user: str = "trainer") -> redis.Redis:
        """As one of the users."""
        password = (secrets() / user / PASSWORD).read_text().strip()
        return redis.Redis(host=LOOPBACK, port=self.server.port, username=user, password=password)


def memory_fills(exported: Exported) -> None:
    with exported.client() as client:
        while client.info("memory")["used_memory"] < 0.85 * MAXMEMORY_MB * 2**20:
            client.xadd("ais:demo:events", {"kind": "x" * 100_000})


def disk_fills(exported: Exported) -> None:
    if exported.disk.trouble:
        pytest.skip(f"no file system can be mounted here: {exported.disk.trouble}")
    exported.disk.shrink()
    with contextlib.suppress(OSError), (exported.disk.directory / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 20)):
            continue
    with exported.client() as client:
        client.xadd("ais:demo:events", {"kind": "x" * 10_000})


def server_is_killed(exported: Exported) -> None:
    exported.server.kill()


FAULTS: Mapping[str, Callable[[Exported], None]] = {
    "AisRedisMemoryNearLimit": memory_fills,
    "AisRedisDiskSlow": disk_fills,
    "AisRedisSilent": server_is_killed,
}
"""By the alert that tells it, in this order: each leaves what the next one needs."""


@contextmanager
def exported(directory: Path, scraped_by_tls: bool) -> Iterator[Exported]:
    """`scraped_by_tls`: as compose has it; False: by whoever comes."""
    with ExitStack() as stack:
        disk = stack.enter_context(SmallDisk.mounted(directory / "disk"))
        flags = ("--aclfile", str(secrets() / ACL), "--maxmemory", f"{MAXMEMORY_MB}mb", "--appendfsync", "everysec")
        flags += ("--latency-monitor-threshold", "1")
        server = stack.enter_context(ValkeyProcess(disk.directory, *flags))
        port, own = stack.enter_context(_tls_before(server.port)), free_port()
        command = _command(directory, f"rediss://localhost:{port}", scraped_by_tls)
        address = f"{LOOPBACK}:{own}"
        with (directory / "exporter.log").open("wb") as log:
            process = subprocess.Popen([*command, "-web.listen-address", address], stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        yield Exported(server, disk, address)


def _command(directory: Path, asked: str, by_tls: bool) -> list[str]:
    """What compose starts, with the places of this machine. The server is reached by a name that is none of its own."""
    told = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][EXPORTER]["command"]
    passwords = directory / PASSWORDS.name
    known = json.loads((secrets() / PASSWORDS).read_text())
    passwords.write_text(json.dumps({asked: known[EXPORTED]}))
    places = {
        f"{COMPOSE_SECRETS}/{PASSWORDS.name}": str(passwords),
        COMPOSE_SECRETS: str(secrets() / EXPORTER),
        EXPORTED: asked,
    }
    for place, here in places.items():
        told = [part.replace(place, here) for part in told]
    if not by_tls:
        first = told.index("-tls-server-ca-cert-file")
        told = told[:first] + told[first + 6 :]
    return [program(EXPORTER_PROGRAM) or EXPORTER_PROGRAM, *told, "-skip-tls-verification"]


@contextmanager
def _tls_before(port: int) -> Iterator[int]:
    """The server's port behind mutual TLS, which this Valkey does not speak itself."""
    loop = asyncio.new_event_loop()
    listener = behind_tls(certificates("redis").server(), port)
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(listener.__aenter__(), loop).result(20)
    finally:
        asyncio.run_coroutine_threadsafe(listener.__aexit__(None, None, None), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
