"""The one client of the weights path: offers a version to a replica and streams what the replica says is missing.

Every pass begins with the offer, and the answer tells where to go on. So a pass that was cut is simply made again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ais.contracts.registry import REPLICA
from ais.contracts.weights.offer import (
    CONTENT_TYPE,
    DIGEST_HEADER,
    OFFSET_HEADER,
    Missing,
    MissingShard,
    Offer,
    WeightsStatus,
)
from ais.contracts.weights.refusal import WeightsRefused, WeightsRefusedError
from ais.runtime.security.keyring import NOBODY, Credential
from ais.runtime.tracing.spans import carried

PIECE_BYTES = 1 << 20
"""Bodies are sent in pieces of this size."""
CONNECT_SECONDS = 5.0
"""A replica that is alive accepts a connection within this time."""
STALLED_SECONDS = 30.0
"""A replica that is alive takes a piece of a body within this time."""
KEEPALIVE_SECONDS = 1.0
"""An idle connection is not used again after this time. The server closes one after five seconds: whoever waits as long
may send just as it closes, and is answered by a reset."""
ATTEMPTS = 4
ANSWER_BYTES = 1 << 20
"""Longest answer that is read; one that lists every shard of the largest version takes a fifth of it."""

Message = TypeVar("Message", WeightsStatus, Missing)
ShardFile = Callable[[int], Awaitable[Path]]
"""The file with the bytes to send of a shard, given its index, as soon as it is whole."""


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes


class UploadError(Exception):
    """The replica does not serve the version."""


class TransientUploadError(UploadError):
    """It may be different next time: no connection, a deadline, an answer of 5xx, bytes that came late or damaged."""


class _Bearer(httpx.Auth):
    """Puts the token of now into every request. Raises UploadError for one that would carry it in the clear."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        if self._credential.certificates and request.url.scheme != "https":
            raise UploadError(
                f"{request.url} is a replica without TLS: it needs security.certificates, as the services have that "
                "send it weights"
            )
        request.headers.update(self._credential.headers())
        yield request


def upload_client(
    deadline_seconds: float, use_proxy: bool = False, credential: Credential = NOBODY
) -> httpx.AsyncClient:
    """A client for any number of replicas. An offer is answered once it is applied, within `deadline_seconds`.

    A proxy that the environment names is used only with `use_proxy`.
    """
    timeout = httpx.Timeout(deadline_seconds, connect=CONNECT_SECONDS, write=STALLED_SECONDS)
    limits = httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)
    certificates = credential.certificates
    return httpx.AsyncClient(
        timeout=timeout,
        limits=limits,
        trust_env=use_proxy,
        auth=_Bearer(credential),
        verify=certificates.client(REPLICA) if certificates else True,
    )


def these(files: Sequence[Path]) -> ShardFile:
    """Files that are whole already."""

    async def file(index: int) -> Path:
        return files[index]

    return file


async def upload(
    client: httpx.AsyncClient,
    url: str,
    offer: Offer,
    shard_file: ShardFile,
    sent: Callable[[int], None] = lambda _size: None,
) -> WeightsStatus:
    """One pass: returns when the replica at `url` serves the version. `sent` is told of bytes as they go out.

    Raises TransientUploadError, after which the next pass goes on where this one was cut; WeightsRefusedError when
    trying again cannot help; UploadError for an answer that no sound replica gives.
    """
    address = f"{url.rstrip('/')}/v1/weights/{offer.version}"
    stuck: Missing | None = None
    while True:
        answer = await _put(client, address, offer.model_dump_json().encode(), {"Content-Type": "application/json"})
        if answer.status == httpx.codes.OK:
            return _confirmed(read_answer(WeightsStatus, address, answer.body), address, offer)
        missing = read_answer(Missing, address, answer.body)
        if not missing.shards or missing == stuck:
            raise TransientUploadError(f"{address} still lacks what it was sent")
        stuck = missing
        for shard in missing.shards:
            check_asked(shard, address, offer)
            await _send(client, address, offer, shard, await shard_file(shard.index), sent)


async def upload_with_retries(
    client: httpx.AsyncClient,
    url: str,
    offer: Offer,
    shard_file: ShardFile,
    attempts: int = ATTEMPTS,
    *,
    wanted: Callable[[], bool] = lambda: True,
    sent: Callable[[int], None] = lambda _size: None,
    failed: Callable[[TransientUploadError], None] = lambda _error: None,
) -> WeightsStatus | None:
    """As `upload`, in up to `attempts` passes with back-off; `failed` is told of each that may be tried again.

    None: the version was not `wanted` any more when a pass was to begin.
    """
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(TransientUploadError),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.1, max=5.0),
        reraise=True,
    ):
        with attempt:
            if not wanted():
                return None
            try:
                return await upload(client, url, offer, shard_file, sent)
            except TransientUploadError as error:
                failed(error)
                raise
    raise AssertionError("unreachable")


async def _send(
    client: httpx.AsyncClient,
    address: str,
    offer: Offer,
    missing: MissingShard,
    file: Path,
    sent: Callable[[int], None],
) -> None:
    shard = offer.shards[missing.index]
    headers = {
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(shard.sent_size - missing.offset),
        DIGEST_HEADER: shard.sent_digest,
        OFFSET_HEADER: str(missing.offset),
    }
    await _put(client, f"{address}/shards/{missing.index}", _pieces(file, missing.offset, sent), headers)


async def _put(
    client: httpx.AsyncClient, address: str, content: bytes | AsyncIterator[bytes], headers: dict[str, str]
) -> _Answer:
    """An answer of 200 or 202. Raises UploadError or WeightsRefusedError."""
    headers = {**headers, **carried(), "Accept-Encoding": "identity"}
    try:
        async with client.stream("PUT", address, content=content, headers=headers) as response:
            answer = _Answer(response.status_code, await _bounded(response, address))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TransientUploadError(f"{address}: {type(error).__name__} {error}") from error
    if answer.status in (httpx.codes.OK, httpx.codes.ACCEPTED):
        return answer
    if answer.status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise UploadError(
            f"{address} does not accept our token ({answer.status}): security.tokens must hold the same tokens there"
        )
    refusal = read_refusal(answer.body)
    if _may_pass(answer.status, refusal):
        raise TransientUploadError(f"{address} answered {answer.status}: {refusal.reason}")
    raise WeightsRefusedError(refusal.field, refusal.reason, answer.status, refusal.probe_gap)


async def _bounded(response: httpx.Response, address: str) -> bytes:
    """The body as it comes, never unpacked. Raises UploadError for a long or an encoded one."""
    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise UploadError(f"{address} gave an answer in an encoding that was not asked for: {encoding[:50]}")
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > ANSWER_BYTES:
            raise UploadError(f"{address} gave an answer of more than {ANSWER_BYTES} bytes")
    return bytes(body)


def check_asked(missing: MissingShard, address: str, offer: Offer) -> None:
    """Raises UploadError when the replica asks for what was not offered."""
    index, offset = missing.index, missing.offset
    if not (0 <= index < len(offer.shards) and 0 <= offset <= offer.shards[index].sent_size):
        raise UploadError(f"{address} asks for byte {offset} of shard {index}, of {len(offer.shards)} shards")


def _may_pass(status: int, refusal: WeightsRefused) -> bool:
    """Whether the same upload may succeed next time."""
    if status >= 500 or status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.NOT_FOUND):
        return True
    return (status, refusal.field) in ((httpx.codes.CONFLICT, "offset"), (httpx.codes.UNPROCESSABLE_ENTITY, "digest"))


def read_refusal(body: bytes) -> WeightsRefused:
    """What the replica says; of an answer of another kind, its beginning."""
    try:
        return WeightsRefused.model_validate_json(body)
    except ValidationError:
        text = body[:500].decode(errors="backslashreplace")
        return WeightsRefused(field="", reason=text, serving_version=0)


def read_answer(model: type[Message], address: str, body: bytes) -> Message:
    """Raises UploadError for an answer of another kind."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UploadError(f"{address} gave an answer that is not understood: {where} {first['msg']}") from None


def _confirmed(status: WeightsStatus, address: str, offer: Offer) -> WeightsStatus:
    if (status.version, status.digest) != (offer.version, offer.digest):
        raise UploadError(f"{address} says that it serves version {status.version}, not the one that it was offered")
    return status


async def _pieces(file: Path, offset: int, sent: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Reads in the event loop: the pieces are in the page cache, where they have just been written."""
    with file.open("rb", buffering=0) as opened:
        opened.seek(offset)
        while piece := opened.read(PIECE_BYTES):
            sent(len(piece))
            yield piece
