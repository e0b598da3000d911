"""What a strange replica answers to an upload is that replica's failure only."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.weights.offer import WeightsStatus
from ais.contracts.weights.refusal import WeightsRefused
from ais.contracts.weights.upload import ANSWER_BYTES, UploadError, these, upload, upload_client
from ais.runtime.network.http import serve
from ais.trainer.weights import push_policy
from ais.trainer.weights.deltas import Origin, full
from ais.trainer.weights.publisher import VersionRefusedError
from ais.trainer.weights.snapshot import Snapshot
from tests.support.replicas.publishing import publishing, served, versions
from tests.support.replicas.replica_stand_ins import Fleet

GZIPPED = {"Content-Encoding": "gzip"}
OTHER = WeightsStatus(version=9, digest="blake3:9", applied_seconds=0.0).model_dump_json()
ANSWERS = {
    "a bomb in gzip": Response(gzip.compress(bytes(1 << 26)), headers=GZIPPED),
    "too long": Response(b" " * (ANSWER_BYTES + 1)),
    "not JSON": Response(b"\xff\xfe<html>"),
    "JSON of another kind": Response(b"[1]"),
    "deep JSON": Response(b"[" * 100_000),
    "another version": Response(OTHER),
    "a shard that there is not": Response(json.dumps({"shards": [{"index": 7, "offset": 0}]}), 202),
    "a shard before the first": Response(json.dumps({"shards": [{"index": -1, "offset": 0}]}), 202),
    "a byte beyond the end": Response(json.dumps({"shards": [{"index": 0, "offset": 10**9}]}), 202),
    "a byte before the first": Response(json.dumps({"shards": [{"index": 0, "offset": -5}]}), 202),
}


@pytest.fixture
def snapshot(tmp_path: Path) -> Callable[..., Snapshot]:
    return versions(tmp_path / "staging")


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_a_strange_answer_ends_the_upload_with_an_error_of_its_own(
    answer: Response, snapshot: Callable[..., Snapshot]
) -> None:
    app = FastAPI()

    @app.put("/v1/weights/{version}")
    async def strange(version: int) -> Response:
        return answer

    parcel = full(snapshot(1), Origin())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with serve(app, "127.0.0.1", 0) as port, upload_client(10.0) as client:
        with pytest.raises(UploadError):
            await upload(client, f"http://127.0.0.1:{port}", parcel.offer, these(parcel.files))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kB"


async def test_the_other_replicas_are_served_beside_a_strange_one(
    redis: Redis, keys: Keys, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    strange, sound = await fleet.join("strange"), await fleet.join("sound")

    async def answer(version: int) -> Response:
        return ANSWERS["another version"]

    strange.answer = answer
    registry = CollectorRegistry()
    async with publishing(redis, keys, registry) as publisher:
        for version in (1, 2):
            publisher.offer(new := snapshot(version))
            await served(new, sound)
        async with asyncio.timeout(10):
            while registry.get_sample_value("ais_weight_replicas_set_aside") != 1:
                await asyncio.sleep(0.01)


async def test_a_version_that_every_replica_refuses_ends_the_run_with_their_reasons(
    redis: Redis, keys: Keys, fleet: Fleet, snapshot: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_policy, "OFFERED_AGAIN_SECONDS", 0.05)
    replicas = [await fleet.join("one"), await fleet.join("two")]
    refusal = WeightsRefused(field="probe", reason="a gap of 0.7", serving_version=0)

    async def refuse(version: int) -> Response:
        return Response(refusal.model_dump_json(), status_code=422)

    for replica in replicas:
        replica.answer = refuse
    registry = CollectorRegistry()
    reasons = r"every replica refuses version 1 .*one: probe: a gap of 0.7; two"
    with pytest.raises(VersionRefusedError, match=reasons):  # noqa: PT012  # raised when the context is left
        async with publishing(redis, keys, registry, refusals=2) as publisher:
            publisher.offer(snapshot(1))
            async with asyncio.timeout(10):
                while not publisher._client.is_closed:
                    await asyncio.sleep(0.01)
    assert registry.get_sample_value("ais_weight_version_refused_by_all") == 1, "as it was when it was told last"
