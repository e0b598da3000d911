"""Every endpoint of every service with TLS on: who has no certificate of the authority gets no answer at all."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from ais.collector.replicas.generation import GenerationClient, GenerationError
from ais.contracts.model_identity import ModelIdentity
from ais.contracts.weights.offer import full_offer
from ais.contracts.weights.upload import TransientUploadError, UploadError, these, upload, upload_client
from ais.issuing.authority import Authority, Issued, Use
from ais.rollout.generation_api import GenerationService, ReplicaIdentity
from ais.rollout.generation_server import ServerLimits, serve_generation
from ais.rollout.metrics import RolloutMetrics
from ais.runtime.network.http import serve
from ais.runtime.security.certificates import AUTHORITY, CERTIFICATE, KEY, Certificates
from ais.runtime.security.door import Door
from ais.runtime.security.keyring import Credential, Keyring
from ais.runtime.security.refusals import Refusal
from ais.runtime.security.roles import Role
from tests.support.access import bearer, metadata, refused_callers, tokens
from tests.support.access.deployment import authority, certificates, expired, trusting, valid, written
from tests.support.access.endpoints import GRPC, HTTP
from tests.support.replicas.replica_stand_ins import StandInReplica

STRANGERS = {
    "without TLS": Refusal.NO_TLS,
    "without a certificate": Refusal.NO_CERTIFICATE,
    "with one that has expired": Refusal.WRONG_CERTIFICATE,
    "with one of another authority": Refusal.WRONG_CERTIFICATE,
}
QUICK_SECONDS = 5.0
"""A refusal takes milliseconds; machines that run tests are busy."""
CUT = (httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError, httpx.WriteError)
"""What a client sees of a connection that is ended before anything was said."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


def presented(stranger: str) -> Issued | None:
    """He has a valid token all the same."""
    match stranger:
        case "with one that has expired":
            return expired("trainer")
        case "with one of another authority":
            return valid("trainer", signer=Authority.new())
    return None


def rollout_door() -> Door:
    return Keyring(tokens(), certificates("rollout")).door(*Role)


def credential(role: Role, service: str) -> Credential:
    return Keyring(tokens(), certificates(service)).credential(role)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """HOST:PORT of a replica's HTTPS."""
    replica = StandInReplica("closed", 0, "blake3:0", tmp_path_factory.mktemp("staging"))
    async with serve(replica.app, "127.0.0.1", 0, rollout_door()) as port:
        yield f"127.0.0.1:{port}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grpc_address() -> AsyncIterator[str]:
    async with served_grpc(rollout_door()) as address:
        yield address


@asynccontextmanager
async def served_grpc(door: Door) -> AsyncIterator[str]:
    identity = ReplicaIdentity("replica", "run", ModelIdentity("", ""))
    service = GenerationService(None, identity, RolloutMetrics(CollectorRegistry()))  # type: ignore[arg-type]
    async with serve_generation(service, "127.0.0.1", 0, ServerLimits(), door) as server:
        yield f"127.0.0.1:{server.port}"


@asynccontextmanager
async def served_http(door: Door, directory: Path) -> AsyncIterator[str]:
    replica = StandInReplica("other", 0, "blake3:0", directory)
    async with serve(replica.app, "127.0.0.1", 0, door) as port:
        yield f"https://127.0.0.1:{port}"


async def pushed(url: str, sender: Credential, directory: Path) -> int:
    """Version that a replica serves when it was sent a file."""
    file = directory / "model.safetensors"
    file.write_bytes(b"weights")
    async with upload_client(QUICK_SECONDS, credential=sender) as client:
        return (await upload(client, url, full_offer(1, [file]), these([file]))).version


async def described(address: str, caller: Credential) -> str | None:
    """Why a call fails; None: it gets through to the replica, whose engine is missing here."""
    client = GenerationClient(address, credential=caller)
    try:
        await client.describe(QUICK_SECONDS)
    except GenerationError as error:
        return None if error.reason == "unknown" else error.reason
    finally:
        await client.close()
    return None


# Strangers.


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize(("method", "path"), HTTP)
async def test_a_request_of_a_stranger_gets_no_answer(
    address: str, method: str, path: str, stranger: str, tmp_path: Path
) -> None:
    before, begun, issued = refused_callers(), time.monotonic(), presented(stranger)
    scheme = "http" if stranger == "without TLS" else "https"
    url = f"{scheme}://{address}{path.format(version=1, index=0)}"
    context = trusting(issued, tmp_path)
    async with httpx.AsyncClient(verify=context, timeout=QUICK_SECONDS, trust_env=False) as client:
        with pytest.raises(CUT):
            await client.request(method, url, headers=bearer(Role.TRAINER), content=b"{}")
    assert time.monotonic() - begun < QUICK_SECONDS
    counted = {reason: count - before[reason] for reason, count in refused_callers().items()}
    assert counted == {reason: float(reason is STRANGERS[stranger]) for reason in Refusal}


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("method", GRPC)
async def test_a_call_of_a_stranger_gets_no_answer(grpc_address: str, method: str, stranger: str) -> None:
    begun, issued, trusted = time.monotonic(), presented(stranger), authority().issued.certificate.encode()
    options = [("grpc.ssl_target_name_override", "rollout")]
    chain = (issued.key.encode(), issued.certificate.encode()) if issued else (None, None)
    secure = grpc.ssl_channel_credentials(trusted, *chain)
    plain = stranger == "without TLS"
    async with (
        grpc.aio.insecure_channel(grpc_address)
        if plain
        else grpc.aio.secure_channel(grpc_address, secure, options) as channel
    ):
        call = channel.unary_stream(method)(b"", timeout=QUICK_SECONDS, metadata=metadata(Role.COLLECTOR))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "unauthenticated" not in (error.value.details() or "")
    assert time.monotonic() - begun < QUICK_SECONDS


# Services.


async def test_services_that_have_certificates_of_one_authority_talk(
    address: str, grpc_address: str, tmp_path: Path
) -> None:
    assert await pushed(f"https://{address}", credential(Role.TRAINER, "trainer"), tmp_path) == 1
    assert await described(grpc_address, credential(Role.COLLECTOR, "collector")) is None


async def test_a_certificate_is_no_token(address: str, grpc_address: str, tmp_path: Path) -> None:
    nobody = Credential(None, certificates("collector"))
    with pytest.raises(UploadError, match="does not accept our token"):
        await pushed(f"https://{address}", nobody, tmp_path)
    assert await described(grpc_address, nobody) == "unauthenticated"


async def test_prometheus_reads_metrics_with_its_own_certificate(address: str) -> None:
    verify = certificates("prometheus").client("rollout")
    async with httpx.AsyncClient(verify=verify, trust_env=False, headers=bearer(Role.METRICS)) as client:
        text = (await client.get(f"https://{address}/metrics")).text
    assert "ais_rollout_weight_received_bytes_total" in text


@pytest.mark.parametrize("server", ["expired", "another authority", "another service", "a client's certificate"])
async def test_no_service_talks_to_a_server_that_it_cannot_trust(server: str, tmp_path: Path) -> None:
    """It is told nothing, no token either: the connection ends before the request."""
    issued = {
        "expired": expired("rollout"),
        "another authority": valid("rollout", signer=Authority.new()),
        "another service": valid("prometheus"),
        "a client's certificate": valid("rollout", Use.CLIENT),
    }[server]
    door = Door(None, Certificates(written(tmp_path / "server", issued)))
    async with served_http(door, tmp_path) as url, served_grpc(door) as address:
        with pytest.raises(TransientUploadError, match="CERTIFICATE_VERIFY_FAILED"):
            await pushed(url, credential(Role.TRAINER, "trainer"), tmp_path)
        assert await described(address, credential(Role.COLLECTOR, "collector")) == "unavailable"


async def test_a_service_with_certificates_tells_nothing_to_one_that_speaks_plainly(tmp_path: Path) -> None:
    door, begun = Keyring(tokens()).door(*Role), time.monotonic()
    async with served_http(door, tmp_path) as url, served_grpc(door) as address:
        with pytest.raises(TransientUploadError):
            await pushed(url, credential(Role.TRAINER, "trainer"), tmp_path)
        with pytest.raises(UploadError, match="a replica without TLS"):
            await pushed(url.replace("https", "http"), credential(Role.TRAINER, "trainer"), tmp_path)
        assert await described(address, credential(Role.COLLECTOR, "collector")) == "unavailable"
    assert time.monotonic() - begun < QUICK_SECONDS


async def test_a_service_without_certificates_gets_nowhere_at_one_that_has_some(
    address: str, grpc_address: str, tmp_path: Path
) -> None:
    with pytest.raises(TransientUploadError):
        await pushed(f"http://{address}", Keyring(tokens()).credential(Role.TRAINER), tmp_path)
    assert await described(grpc_address, Keyring(tokens()).credential(Role.COLLECTOR)) == "unavailable"


# Rotation.


async def test_certificates_and_their_authority_change_under_running_services(tmp_path: Path) -> None:
    """The new authority is trusted beside the old one, then signs, and then the old one is forgotten."""
    old, new = Authority.new(), Authority.new()
    places = [written(tmp_path / name, old.issue(name, *Use), old) for name in ("rollout", "trainer")]
    served, sending = map(Certificates, places)
    context, late = sending.client("rollout"), trusting(valid("trainer", signer=old), tmp_path / "late")
    late.load_verify_locations(cadata=new.issued.certificate)

    async def reached(url: str, verify: ssl.SSLContext) -> int:
        async with httpx.AsyncClient(verify=verify, trust_env=False) as client:  # a new connection
            return (await client.get(f"{url}/v1/weights")).status_code

    async def all_reach(url: str, address: str) -> None:
        assert await reached(url, context) == 200
        assert await described(address, Credential(None, sending)) is None

    door = Door(None, served)
    async with served_http(door, tmp_path) as url, served_grpc(door) as address:
        await all_reach(url, address)
        for place in places:
            (place / AUTHORITY).write_text(old.issued.certificate + new.issued.certificate)
        await all_reach(url, address)
        for place in places:
            issued = new.issue(place.name, *Use)
            (place / KEY).write_text(issued.key)
            await all_reach(url, address)  # the key does not belong to the certificate: the two before are kept
            (place / CERTIFICATE).write_text(issued.certificate)
            await all_reach(url, address)
        assert await reached(url, late) == 200
        for place in places:
            (place / AUTHORITY).write_text(new.issued.certificate)
        await all_reach(url, address)
        with pytest.raises(CUT):
            await reached(url, late)
        assert served.change() == sending.change() == 3
