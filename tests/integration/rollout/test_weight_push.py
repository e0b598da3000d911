"""Weights over a real HTTP connection: applied whole, or refused with the old version still serving."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client import CollectorRegistry
from safetensors.torch import load, save

from ais.contracts.sampling import Precision
from ais.contracts.weights.offer import (
    DIGEST_HEADER,
    MOST_CHILDREN,
    MOST_SHARDS,
    OFFER_BYTES,
    Missing,
    MissingShard,
    WeightsStatus,
    digest_of,
    version_digest,
)
from ais.contracts.weights.probe import Probe
from ais.contracts.weights.refusal import WeightsRefused
from ais.rollout.engine import RollbackFailedError, WeightSwap
from ais.rollout.engines.torch_engine.engine import TorchEngine
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.weights import control_api
from ais.rollout.weights.control_api import control_application
from ais.rollout.weights.intake import WeightIntake
from ais.runtime.network.http import serve
from tests.support.replicas.pushing import offer_of, push, send
from tests.support.tiny_models import VOCABULARY, collect, request_for, until

Tensors = dict[str, torch.Tensor]


@dataclass
class Replica:
    """A served engine and a client of its control API."""

    engine: TorchEngine
    intake: WeightIntake
    registry: CollectorRegistry
    staging: Path
    client: httpx.AsyncClient
    announced: list[int]

    async def push(self, version: int, body: bytes, digest: str = "", **changes: Any) -> httpx.Response:
        return await push(self.client, version, body, **changes)

    def staged(self) -> list[Path]:
        return sorted(path for path in self.staging.rglob("*") if path.is_file())

    def sample(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(name, labels)
        assert value is not None, name
        return value

    def pushes(self, outcome: str) -> float:
        return self.sample("ais_rollout_weight_swaps_total", outcome=outcome)


@pytest.fixture
async def replica(open_engine: Callable, tmp_path: Path) -> AsyncIterator[Replica]:
    engine = await open_engine(precision=Precision())
    registry = CollectorRegistry()
    metrics = RolloutMetrics(registry)
    metrics.watch(engine)
    staging = tmp_path / "staging"
    staging.mkdir()
    announced: list[int] = []
    intake = WeightIntake(engine, staging, metrics, applied=lambda: announced.append(engine.describe().version))
    app = control_application(registry, lambda: None, intake)
    async with (
        serve(app, "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        yield Replica(engine, intake, registry, staging, client, announced)
    await intake.close()
    assert list(staging.iterdir()) == [], "nothing staged is left behind"


async def test_a_push_is_served_from_the_next_token_on(replica: Replica, snapshot: Callable) -> None:
    body, digest = snapshot()
    answer = await replica.push(3, body, digest)
    assert answer.status_code == 200, answer.text
    status = WeightsStatus.model_validate(answer.json())
    assert (status.version, status.digest) == (3, digest)
    assert status.applied_seconds > 0
    assert (await replica.client.get("/v1/weights")).json() == answer.json()
    (completion,) = await collect(replica.engine, request_for((1, 2)))
    assert completion.spans[0].version == 3
    assert replica.announced == [3]
    metrics = (await replica.client.get("/metrics")).text
    assert "ais_rollout_policy_version 3.0" in metrics
    assert f"ais_rollout_weight_received_bytes_total {float(len(body))}" in metrics


async def test_an_offer_that_does_not_come_is_given_up(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_api, "STALLED_SECONDS", 0.2)

    async def slowly() -> AsyncIterator[bytes]:
        yield b" "
        await asyncio.sleep(1)

    answer = await replica.client.put("/v1/weights/1", content=slowly())
    assert (answer.status_code, answer.json()["field"]) == (408, "body")


async def test_the_same_version_again_changes_nothing(replica: Replica, snapshot: Callable) -> None:
    body, digest = snapshot()
    first, second = await replica.push(1, body, digest), await replica.push(1, body, digest)
    assert (second.status_code, second.json()) == (200, first.json())
    assert (replica.pushes("applied"), replica.pushes("unchanged")) == (1, 1)


async def test_a_version_never_changes_and_never_goes_back(replica: Replica, snapshot: Callable) -> None:
    body, digest = snapshot(seed=1)
    await replica.push(2, body, digest)
    other, other_digest = snapshot(seed=2)
    for version, field in ((2, "digest"), (1, "version")):
        answer = await replica.push(version, other, other_digest)
        refusal = WeightsRefused.model_validate(answer.json())
        assert (answer.status_code, refusal.field, refusal.serving_version) == (409, field, 2)
    assert replica.engine.describe().digest == digest


def missing(tensors: Tensors) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def unknown(tensors: Tensors) -> None:
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(2, 2)


def wrong_shape(tensors: Tensors) -> None:
    tensors["model.norm.weight"] = torch.ones(63)


def wrong_dtype(tensors: Tensors) -> None:
    tensors["model.norm.weight"] = torch.ones(64, dtype=torch.int32)


def not_a_number(tensors: Tensors) -> None:
    tensors["lm_head.weight"][3, 5] = torch.nan


def overflow(tensors: Tensors) -> None:
    tensors["lm_head.weight"].fill_(3e38)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (missing, "model.layers.1.mlp.up_proj.weight"),
        (unknown, "model.layers.2.mlp.up_proj.weight"),
        (wrong_shape, "model.norm.weight"),
        (wrong_dtype, "model.norm.weight"),
        (not_a_number, "lm_head.weight"),
        (overflow, "probe"),
    ],
)
async def test_bad_weights_are_refused_by_name_while_generation_goes_on(
    change: Callable[[Tensors], None], field: str, replica: Replica, snapshot: Callable
) -> None:
    body, digest = snapshot(change=change)
    running = asyncio.create_task(collect(replica.engine, request_for((1, 2), samples=2, new_tokens=200)))
    answer = await replica.push(1, body, digest)
    refusal = WeightsRefused.model_validate(answer.json())
    assert (answer.status_code, refusal.field, refusal.serving_version) == (422, field, 0)
    assert "expected" in refusal.reason
    assert [{span.version for span in completion.spans} for completion in await running] == [{0}, {0}]
    assert replica.pushes("422") == 1
    assert replica.announced == []


async def test_a_body_with_another_digest_or_that_is_no_safetensors_is_refused(
    replica: Replica, snapshot: Callable
) -> None:
    body, _digest = snapshot()
    broken = bytearray(body)
    broken[-1] ^= 1
    damaged = await push(replica.client, 1, body, sent=[bytes(broken)])
    assert (damaged.status_code, damaged.json()["field"]) == (422, "digest")
    noise = await push(replica.client, 2, b"\x00" * 1000)
    assert (noise.status_code, noise.json()["field"]) == (422, "snapshot")
    assert replica.engine.describe().version == 0


async def test_a_damaged_shard_is_sent_again_from_its_beginning(replica: Replica, snapshot: Callable) -> None:
    body, digest = snapshot()
    await push(replica.client, 1, body, sent=[b"x" * len(body)])
    missing = await replica.client.put("/v1/weights/1", json=offer_of(1, [body]))
    assert Missing.model_validate(missing.json()).shards == (MissingShard(index=0, offset=0),)
    assert (await push(replica.client, 1, body)).status_code == 200
    assert replica.engine.describe().digest == digest


async def test_an_offer_is_checked_before_any_byte_is_taken(replica: Replica, snapshot: Callable) -> None:
    body, _digest = snapshot()
    too_large = offer_of(1, [body])
    too_large["shards"][0]["sent_size"] = 70_000_000
    offers = [
        too_large,
        offer_of(1, [body], encoding="gzip"),
        offer_of(1, [body], digest=digest_of(b"another")),
        offer_of(1, [body], shards=[offer_of(1, [body])["shards"][0] | {"name": "../model.safetensors"}]),
        offer_of(2, [body]),
    ]
    answers = [await replica.client.put("/v1/weights/1", json=offer) for offer in offers]
    replica.intake.draining = True
    answers.append(await replica.client.put("/v1/weights/1", json=offer_of(1, [body])))
    assert [answer.status_code for answer in answers] == [413, 415, 422, 422, 422, 503]
    assert all(WeightsRefused.model_validate(answer.json()).reason for answer in answers)
    assert replica.staged() == []


def too_many_shards(offer: dict[str, Any]) -> None:
    shard = offer["shards"][0]
    offer["shards"] = [
        shard | {"name": f"model-{number:05d}-of-99999.safetensors"} for number in range(MOST_SHARDS + 1)
    ]


def wide(offer: dict[str, Any]) -> None:
    offer["relay"] = [{"url": f"http://127.0.0.1:{port}"} for port in range(1, MOST_CHILDREN + 2)]


def deep(offer: dict[str, Any]) -> None:
    for _ in range(150):
        offer["relay"] = [{"url": "http://127.0.0.1:1", "children": offer.get("relay", [])}]


def many(offer: dict[str, Any]) -> None:
    leaves = [{"url": "http://127.0.0.1:1"}] * MOST_CHILDREN
    offer["relay"] = [{"url": "http://127.0.0.1:1", "children": leaves}] * MOST_CHILDREN


def too_long(offer: dict[str, Any]) -> None:
    offer["comment"] = "x" * OFFER_BYTES


def a_size_beyond_all(offer: dict[str, Any]) -> None:
    offer["shards"][0]["size"] = 10**30


def endless(offer: dict[str, Any]) -> None:
    offer["relay_seconds"] = 1e300


@pytest.mark.parametrize(
    ("grow", "status"),
    [
        (too_many_shards, 422), (wide, 422), (deep, 422), (many, 422), (a_size_beyond_all, 422), (endless, 422),
        (too_long, 413),
    ],
)  # fmt: skip
async def test_an_offer_beyond_the_limits_is_refused_before_anything_is_kept(
    grow: Callable[[dict[str, Any]], None], status: int, replica: Replica, snapshot: Callable
) -> None:
    offer = offer_of(1, [snapshot()[0]])
    grow(offer)
    answer = await replica.client.put("/v1/weights/1", json=offer)
    assert answer.status_code == status, answer.text[:300]
    assert replica.staged() == []


async def test_bytes_nobody_asked_for_are_refused(replica: Replica, snapshot: Callable) -> None:
    body, _digest = snapshot()
    offer = offer_of(1, [body])
    assert (await send(replica.client, offer, 0, body)).status_code == 404, "not offered"
    await replica.client.put("/v1/weights/1", json=offer)
    assert (await send(replica.client, offer_of(1, [body + b"x"]), 0, body)).status_code == 404, "of another version"
    beyond = await send(replica.client, offer, 0, body, offset=10)
    assert (beyond.status_code, beyond.json()["field"]) == (409, "offset")
    too_many = await send(replica.client, offer, 0, body + b"x")
    assert (too_many.status_code, too_many.json()["field"]) == (422, "length")

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    headers = {DIGEST_HEADER: offer["shards"][0]["sent_digest"]}
    chunked = await replica.client.put("/v1/weights/1/shards/0", content=pieces(), headers=headers)
    assert chunked.status_code == 411


async def cut_off(replica: Replica, offer: dict[str, Any], body: bytes, offset: int, count: int) -> None:
    """Sends `count` bytes of a body that claims to go on to the end, and hangs up."""
    _reader, writer = await asyncio.open_connection("127.0.0.1", replica.client.base_url.port)
    head = (
        f"PUT /v1/weights/{offer['version']}/shards/0 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) - offset}\r\n"
        f"{DIGEST_HEADER}: {offer['shards'][0]['sent_digest']}\r\nX-AIS-Offset: {offset}\r\n\r\n"
    )
    writer.write(head.encode() + body[offset : offset + count])
    await writer.drain()
    await until(lambda: replica.staged()[0].stat().st_size == offset + count)
    writer.close()
    await writer.wait_closed()


async def test_an_upload_cut_off_in_the_middle_changes_nothing_and_goes_on_where_it_was_cut(
    replica: Replica, snapshot: Callable
) -> None:
    body, digest = snapshot()
    offer = offer_of(1, [body])
    await replica.client.put("/v1/weights/1", json=offer)
    await cut_off(replica, offer, body, 0, 1000)
    await cut_off(replica, offer, body, 1000, 500)
    assert replica.engine.describe().version == 0
    missing = await replica.client.put("/v1/weights/1", json=offer)
    assert Missing.model_validate(missing.json()).shards == (MissingShard(index=0, offset=1500),)
    assert (await send(replica.client, offer, 0, body[1500:], offset=1500)).status_code == 202
    assert (await replica.client.put("/v1/weights/1", json=offer)).status_code == 200
    assert replica.engine.describe().digest == digest
    assert replica.sample("ais_rollout_weight_received_bytes_total") == len(body), "no byte came twice"


async def test_a_connection_that_hangs_is_in_nobodys_way(replica: Replica, snapshot: Callable) -> None:
    body, digest = snapshot()
    offer = offer_of(1, [body])
    await replica.client.put("/v1/weights/1", json=offer)
    _reader, hanging = await asyncio.open_connection("127.0.0.1", replica.client.base_url.port)
    head = (
        f"PUT /v1/weights/1/shards/0 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"{DIGEST_HEADER}: {offer['shards'][0]['sent_digest']}\r\n\r\n"
    )
    hanging.write(head.encode() + body[:1000])
    await until(lambda: replica.staged()[0].stat().st_size == 1000)
    assert (await send(replica.client, offer, 0, body[1000:], offset=1000)).status_code == 202
    hanging.write(body[1000:])
    await hanging.drain()
    assert (await replica.client.put("/v1/weights/1", json=offer)).status_code == 200
    assert replica.engine.describe().digest == digest
    hanging.close()


async def test_a_version_of_several_shards_is_served(replica: Replica, snapshot: Callable) -> None:
    body, _digest = snapshot()
    tensors = load(body)
    names = sorted(tensors)
    files = [save({name: tensors[name] for name in half}) for half in (names[::2], names[1::2])]
    answer = await push(replica.client, 1, *files)
    assert answer.status_code == 200, answer.text
    assert answer.json()["digest"] == version_digest([digest_of(file) for file in files])
    (before,) = await collect(replica.engine, request_for((1, 2), seed=3))
    assert (await replica.push(2, body)).status_code == 200
    (after,) = await collect(replica.engine, request_for((1, 2), seed=3))
    assert (before.logprobs == after.logprobs).all()


async def test_a_trainer_that_resumed_goes_back_and_one_that_was_replaced_cannot_go_on(
    replica: Replica, snapshot: Callable
) -> None:
    (first, _), (resumed, digest) = snapshot(seed=1), snapshot(seed=2)
    assert (await replica.push(9, first, incarnation=1)).status_code == 200
    assert (await replica.push(3, resumed, incarnation=2)).status_code == 200
    stale = await replica.push(10, first, incarnation=1)
    assert (stale.status_code, stale.json()["field"]) == (409, "version")
    status = WeightsStatus.model_validate((await replica.client.get("/v1/weights")).json())
    assert (status.version, status.digest, status.incarnation) == (3, digest, 2)


async def test_a_new_trainer_that_confirms_what_is_served_shuts_the_old_one_out(
    replica: Replica, snapshot: Callable
) -> None:
    body, _digest = snapshot()
    await replica.push(4, body, incarnation=1)
    assert (await replica.push(4, body, incarnation=2)).status_code == 200
    assert (await replica.push(5, snapshot(seed=2)[0], incarnation=1)).status_code == 409
    assert replica.announced == [4], "nothing was applied twice"


async def test_the_files_of_versions_that_do_not_serve_go(replica: Replica, snapshot: Callable) -> None:
    for version in (1, 2, 3):
        await replica.push(version, snapshot(seed=version)[0])
    assert [file.read_bytes() for file in replica.staged()] == [snapshot(seed=3)[0]]


async def test_pushes_that_race_leave_the_newest_version(replica: Replica, snapshot: Callable) -> None:
    snapshots = [(version, *snapshot(seed=version)) for version in (1, 2, 3)]
    answers = await asyncio.gather(*(replica.push(*push) for push in snapshots))
    assert {answer.status_code for answer in answers} <= {200, 404, 409}, "404: a newer one took its place"
    assert replica.engine.describe().version == 3
    assert replica.engine.describe().digest == snapshots[2][2]


async def test_a_version_that_agrees_with_its_probe_serves_and_tells_the_gap(
    replica: Replica, snapshot: Callable, probe_of_model: Callable
) -> None:
    assert math.isnan(replica.sample("ais_rollout_probe_gap_nats"))
    answer = await replica.push(1, *snapshot(probe=probe_of_model()))
    assert answer.status_code == 200, answer.text
    gap = WeightsStatus.model_validate(answer.json()).probe_gap
    assert gap is not None
    assert 0.0 < gap < 0.5
    assert replica.sample("ais_rollout_probe_gap_nats") == gap
    await replica.push(2, *snapshot())
    assert (await replica.client.get("/v1/weights")).json()["probe_gap"] is None, "a snapshot of another origin"
    assert math.isnan(replica.sample("ais_rollout_probe_gap_nats"))


async def test_weights_that_are_not_the_trainers_are_refused_with_the_gap_while_generation_goes_on(
    replica: Replica, snapshot: Callable, probe_of_model: Callable
) -> None:
    served, served_digest = snapshot(seed=1, probe=probe_of_model(seed=1))
    await replica.push(1, served, served_digest)
    gap_served = replica.sample("ais_rollout_probe_gap_nats")
    running = asyncio.create_task(collect(replica.engine, request_for((1, 2), samples=2, new_tokens=200)))
    answer = await replica.push(2, *snapshot(seed=2, probe=probe_of_model(seed=1)))
    refusal = WeightsRefused.model_validate(answer.json())
    assert (answer.status_code, refusal.field, refusal.serving_version) == (422, "probe", 1)
    assert refusal.probe_gap is not None
    assert refusal.probe_gap > 1.0
    assert f"a measured gap of {refusal.probe_gap:.4g}" in refusal.reason
    assert [{span.version for span in completion.spans} for completion in await running] == [{1}, {1}]
    assert (replica.engine.describe().digest, replica.announced) == (served_digest, [1])
    assert replica.sample("ais_rollout_probe_gap_nats") == gap_served
    assert replica.sample("ais_rollout_probe_rejections_total", previous="kept") == 1
    answer = await replica.push(3, *snapshot(seed=2, probe=probe_of_model(seed=2)))
    assert answer.status_code == 200, "the next version may be right"


async def test_a_replica_that_cannot_go_back_says_that_it_is_in_trouble_and_counts_it(
    replica: Replica, snapshot: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(version: int, digest: str, files: list[Path]) -> WeightSwap:
        raise RollbackFailedError("version 0 could not be put back")

    monkeypatch.setattr(replica.engine, "swap_weights", lost)
    answer = await replica.push(1, *snapshot())
    assert (answer.status_code, answer.json()["reason"]) == (503, "version 0 could not be put back")
    assert replica.sample("ais_rollout_probe_rejections_total", previous="lost") == 1


async def test_a_malformed_probe_is_refused_by_field(replica: Replica, snapshot: Callable) -> None:
    unknown_token = Probe(token_ids=((1, VOCABULARY),), logprobs=((-1.0,),))
    answer = await replica.push(1, *snapshot(probe=unknown_token))
    assert (answer.status_code, answer.json()["field"]) == (422, "probe.token_ids[0]")
