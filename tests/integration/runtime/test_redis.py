"""Every way to name a Redis server, and every server that cannot carry a run, against real ones."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.redis_commands import commands_of
from ais.contracts.registry import ReplicaRegistry
from ais.runtime.network.redis import RIGHTS, RedisUnreachableError, connect
from ais.runtime.settings import RedisSettings
from benchmarks.support.forwarder import behind_tls
from tests.support.ipv6 import needs_ipv6
from tests.support.valkey_process import ValkeyProcess

KEYS = Keys("guarded")
RESERVED = "p:a/s?s#w@r[d]&=+;%!*'é"


def server_with(directory: Path, *flags: str, host: str = "127.0.0.1") -> ValkeyProcess:
    return ValkeyProcess(directory, *flags, host=host)


async def answer_of(url: str, **changes: float) -> bytes:
    client = await connect(RedisSettings.model_validate({"url": url, **changes}), commands_of(KEYS))
    try:
        await client.set("ais:guarded:test", b"kept")
        return await client.get("ais:guarded:test")
    finally:
        await client.aclose()


async def refusal_of(url: str) -> str:
    """The one line that a server is refused with, at once."""
    async with asyncio.timeout(20):
        with pytest.raises(RedisUnreachableError) as refused:
            await connect(RedisSettings.model_validate({"url": url}), commands_of(KEYS))
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("written", [quote(RESERVED, safe=""), RESERVED.replace("%", "%25"), "plain", "100%25"])
async def test_a_password_may_hold_any_character(written: str, tmp_path: Path) -> None:
    password = {"plain": "plain", "100%25": "100%"}.get(written, RESERVED)
    with server_with(tmp_path, "--requirepass", password) as server:
        assert await answer_of(f"redis://:{written}@{server.address}/0") == b"kept"
        assert await answer_of(f"redis://default:{written}@{server.address}") == b"kept"
        assert "refuses this client" in await refusal_of(f"redis://:{written}x@{server.address}/0")


async def test_a_unix_socket_is_a_server_like_any_other(tmp_path: Path) -> None:
    socket = tmp_path / "a@b.sock"
    with server_with(tmp_path, "--unixsocket", str(socket), "--requirepass", RESERVED):
        user = quote(RESERVED, safe="")
        assert await answer_of(f"unix://:{user}@{socket}?db=3") == b"kept"
        assert "refuses this client" in await refusal_of(f"unix://{socket}")


@needs_ipv6
async def test_an_ipv6_server_is_named_in_brackets(tmp_path: Path) -> None:
    with server_with(tmp_path, "--requirepass", "secret", host="::1") as server:
        assert await answer_of(f"redis://:secret@[::1]:{server.port}/0") == b"kept"
        assert await answer_of(f"redis://:secret@[0:0::1]:{server.port}") == b"kept"


@pytest.mark.parametrize("url", ["redis://{}/0", "redis://:wrong@{}/0", "redis://nobody:secret@{}/0"])
async def test_refused_credentials_are_told_at_once_and_never_shown(url: str, tmp_path: Path) -> None:
    with server_with(tmp_path, "--requirepass", "secret") as server:
        message = await refusal_of(url.format(server.address))
    assert "refuses this client" in message
    assert "Check redis.url" in message
    assert "wrong@" not in message
    assert ":secret" not in message


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
async def test_a_server_that_evicts_is_refused(policy: str, tmp_path: Path) -> None:
    with server_with(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", policy) as server:
        assert f"maxmemory-policy is {policy}" in (message := await refusal_of(server.url))
        assert "CONFIG SET maxmemory-policy noeviction" in message


@pytest.mark.parametrize("flags", [("--maxmemory", "100mb"), ("--maxmemory-policy", "allkeys-lru")])
async def test_a_server_that_never_evicts_is_taken(flags: tuple[str, ...], tmp_path: Path) -> None:
    with server_with(tmp_path, *flags) as server:
        assert await answer_of(server.url) == b"kept"


async def test_a_cluster_is_refused(tmp_path: Path) -> None:
    with server_with(tmp_path, "--cluster-enabled", "yes", "--appendonly", "no") as server:
        assert "cluster mode" in await refusal_of(server.url)


@contextmanager
def guarded(directory: Path, *rules: str) -> Iterator[str]:
    """URL of a server whose only user has these rights."""
    flags = ("--user", "ais", "on", ">secret", "resetchannels", "-@all", *rules, "--user", "default", "off")
    with server_with(directory, *flags) as server:
        yield f"redis://ais:secret@{server.address}/0"


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (("~ais:guarded:*", "+@all", "-xadd"), "XADD ais:guarded:groups"),
        (("~ais:guarded:*", "+@all", "-evalsha"), "EVALSHA"),
        (("~ais:guarded:*", "+@all", "-@transaction"), "MULTI"),
        (("~ais:guarded:*", "+@all", "-info"), "INFO"),
        (("~ais:other:*", "+@all"), "XADD ais:guarded:groups"),
        (("%R~ais:guarded:*", "+@all"), "XADD ais:guarded:groups"),
        (("~ais:guarded:*", "+@connection"), "MULTI"),
    ],
)
async def test_an_acl_that_forbids_is_refused_with_what_is_needed(
    rules: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    with guarded(tmp_path, *rules) as url:
        message = await refusal_of(url)
    assert f"user 'ais' may not use {named}" in message
    assert f"ACL SETUSER ais ~ais:guarded:* {RIGHTS}" in message
    assert "secret" not in message


async def test_the_check_executes_nothing(tmp_path: Path) -> None:
    with server_with(tmp_path) as server:
        client = await connect(RedisSettings.model_validate({"url": server.url}), commands_of(KEYS))
        assert await client.keys() == []
        await client.aclose()


async def test_the_rights_that_the_error_names_are_enough(tmp_path: Path) -> None:
    """Queue, dead letters and registry, as that user."""
    with guarded(tmp_path, "~ais:guarded:*", *RIGHTS.split()) as url:
        client = await connect(RedisSettings.model_validate({"url": url}), commands_of(KEYS))
        queue = TrajectoryQueue(client, KEYS)
        await queue.prepare()
        assert [await queue.publish(ordinal, b"group") for ordinal in (0, 1, 1)] == [True, True, False]
        kept, refused = await queue.read(2, block_seconds=1)
        await queue.acknowledge({kept.entry_id: 0})
        await queue.discard(refused, "test")
        assert (await queue.depth(), await queue.accepted(0)) == (0, set())
        await queue.claim(1)
        await queue.forget_consumers()
        assert await ReplicaRegistry(client, KEYS).replicas() == []
        await client.aclose()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a self-signed certificate for localhost in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate for a TLS server")
    file, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subprocess.run((*made, "-keyout", key, "-out", file, "-days", "2", *names), check=True, capture_output=True)
    file.write_text(file.read_text() + key.read_text())
    return file


def of_one_file(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


async def test_tls_works_with_the_authority_that_is_named(certificate: Path, tmp_path: Path) -> None:
    with server_with(tmp_path, "--requirepass", RESERVED) as server:
        async with behind_tls(of_one_file(certificate), server.port) as port:
            user = quote(RESERVED, safe="")
            assert await answer_of(f"rediss://:{user}@localhost:{port}/0?ssl_ca_certs={certificate}") == b"kept"


async def test_a_certificate_that_is_not_trusted_is_refused_at_once(certificate: Path, tmp_path: Path) -> None:
    with server_with(tmp_path) as server:
        async with behind_tls(of_one_file(certificate), server.port) as port:
            message = await refusal_of(f"rediss://localhost:{port}/0")
    assert "CERTIFICATE_VERIFY_FAILED" in message
    assert "ssl_ca_certs" in message


async def test_tls_to_a_port_without_it_says_what_to_check(tmp_path: Path) -> None:
    """A server without TLS waits for the rest of what it takes for a command: nothing ever answers."""
    with server_with(tmp_path) as server:
        quick = {"connect_timeout_seconds": 0.2, "operation_timeout_seconds": 0.2}
        settings = RedisSettings.model_validate({"url": f"rediss://{server.address}/0", **quick})
        with pytest.raises(RedisUnreachableError, match="TLS port"):
            await connect(settings)


async def test_a_server_that_is_not_there_is_told_without_its_password() -> None:
    settings = RedisSettings.model_validate(
        {"url": "redis://user:secret@127.0.0.1:1/0", "connect_timeout_seconds": 0.2}
    )
    with pytest.raises(RedisUnreachableError, match=r"no Redis answers at redis://user:\*\*\*@127\.0\.0\.1:1/0"):
        await connect(settings)


async def test_a_missing_url_is_told() -> None:
    with pytest.raises(RedisUnreachableError, match=r"redis\.url is not set"):
        await connect(RedisSettings())
