"""The one client of the weights path: offers a version to a replica and streams what the replica says is missing.

Every pass begins with the offer, and the answer tells where to go on. So a pass that was cut is simply made again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

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

Answer = TypeVar("Answer", WeightsStatus, Missing)
ShardFile = Callable[[int], Awaitable[Path]]
"""The file with the bytes to send of a shard, given its index, as soon as it is whole."""


class UploadError(Exception):
    """The replica does not serve the version."""


class TransientUploadError(UploadError):
    """It may be different next time: no connection, a deadline, an answer of 5xx, bytes that came late or damaged."""


def upload_client(deadline_seconds: float, use_proxy: bool = False) -> httpx.AsyncClient:
    """A client for any number of replicas. An offer is answered once it is applied, within `deadline_seconds`.

    A proxy that the environment names is used only with `use_proxy`.
    """
    timeout = httpx.Timeout(deadline_seconds, connect=CONNECT_SECONDS, write=STALLED_SECONDS)
    limits = httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)
    return httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=use_proxy)


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
    trying again cannot help; UploadError for an answer that is not understood.
    """
    address = f"{url.rstrip('/')}/v1/weights/{offer.version}"
    stuck: Missing | None = None
    while True:
        answer = await _put(client, address, offer.model_dump_json().encode(), {"Content-Type": "application/json"})
        if answer.status_code == httpx.codes.OK:
            return _read(WeightsStatus, address, answer)
        missing = _read(Missing, address, answer)
        if not missing.shards or missing == stuck:
            raise TransientUploadError(f"{address} still lacks what it was sent: {missing.shards}")
        stuck = missing
        for shard in missing.shards:
            await _send(client, address, offer, shard, await shard_file(shard.index), sent)


async def upload_with_retries(
    client: httpx.AsyncClient, url: str, offer: Offer, shard_file: ShardFile, attempts: int = ATTEMPTS
) -> WeightsStatus:
    """As `upload`, in up to `attempts` passes with back-off."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(TransientUploadError),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.1, max=5.0),
        reraise=True,
    ):
        with attempt:
            return await upload(client, url, offer, shard_file)
    raise AssertionError("unreachable")


async def _send(
    client: httpx.AsyncClient,
    address: str,
    offer: Offer,
    missing: MissingShard,
    file: Path,
    sent: Callable[[int], None],
) -> None:
    try:
        shard = offer.shards[missing.index]
    except IndexError:
        raise UploadError(f"{address} asks for shard {missing.index} of {len(offer.shards)}") from None
    headers = {
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(shard.sent_size - missing.offset),
        DIGEST_HEADER: shard.sent_digest,
        OFFSET_HEADER: str(missing.offset),
    }
    await _put(client, f"{address}/shards/{missing.index}", _pieces(file, missing.offset, sent), headers)


async def _put(
    client: httpx.AsyncClient, address: str, content: bytes | AsyncIterator[bytes], headers: dict[str, str]
) -> httpx.Response:
    """An answer of 200 or 202. Raises UploadError."""
    try:
        answer = await client.put(address, content=content, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TransientUploadError(f"{address}: {type(error).__name__} {error}") from error
    if answer.is_success:
        return answer
    refusal = _refusal(answer)
    if _may_pass(answer.status_code, refusal):
        raise TransientUploadError(f"{address} answered {answer.status_code}: {answer.text[:200]}")
    refusal = refusal or WeightsRefused(field="", reason=answer.text[:500], serving_version=0)
    raise WeightsRefusedError(refusal.field, refusal.reason, answer.status_code, refusal.probe_gap)


def _may_pass(status: int, refusal: WeightsRefused | None) -> bool:
    """Whether the same upload may succeed next time."""
    if status >= 500 or status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.NOT_FOUND):
        return True
    field = refusal.field if refusal else ""
    return (status, field) in ((httpx.codes.CONFLICT, "offset"), (httpx.codes.UNPROCESSABLE_ENTITY, "digest"))


def _refusal(answer: httpx.Response) -> WeightsRefused | None:
    try:
        return WeightsRefused.model_validate_json(answer.content)
    except ValidationError:
        return None


def _read(model: type[Answer], address: str, answer: httpx.Response) -> Answer:
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        raise UploadError(f"{address} gave an answer that is not understood: {error}") from error


async def _pieces(file: Path, offset: int, sent: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Reads in the event loop: the pieces are in the page cache, where they have just been written."""
    with file.open("rb", buffering=0) as opened:
        opened.seek(offset)
        while piece := opened.read(PIECE_BYTES):
            sent(len(piece))
            yield piece
