"""A snapshot in memory, pushed step by step as the wire says, so that a test can get any step wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from ais.contracts.weights.offer import DIGEST_HEADER, OFFSET_HEADER, digest_of, shard_name, version_digest


def offer_of(version: int, files: Sequence[bytes], **changes: Any) -> dict[str, Any]:
    """An offer of whole files, with fields changed."""
    shards = [
        {
            "name": shard_name(number, len(files)),
            "size": len(file),
            "digest": digest_of(file),
            "sent_size": len(file),
            "sent_digest": digest_of(file),
        }
        for number, file in enumerate(files, start=1)
    ]
    digest = version_digest([digest_of(file) for file in files])
    base = {"version": version, "incarnation": 0, "digest": digest, "encoding": "full", "shards": shards}
    return base | changes


async def send(
    client: httpx.AsyncClient, offer: Mapping[str, Any], index: int, content: bytes, offset: int = 0
) -> httpx.Response:
    """Bytes of one shard."""
    headers = {DIGEST_HEADER: offer["shards"][index]["sent_digest"], OFFSET_HEADER: str(offset)}
    return await client.put(f"/v1/weights/{offer['version']}/shards/{index}", content=content, headers=headers)


async def push(
    client: httpx.AsyncClient, version: int, *files: bytes, sent: Sequence[bytes] = (), **changes: Any
) -> httpx.Response:
    """All of it; the answer to the last offer, or the first that refuses. `sent` are the bytes to send instead."""
    offer = offer_of(version, files, **changes)
    answer = await client.put(f"/v1/weights/{version}", json=offer)
    if answer.status_code != 202:
        return answer
    for index, content in enumerate(sent or files):
        answer = await send(client, offer, index, content)
        if not answer.is_success:
            return answer
    return await client.put(f"/v1/weights/{version}", json=offer)
