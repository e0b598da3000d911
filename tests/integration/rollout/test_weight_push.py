"""Weights over a real HTTP connection: applied whole, or refused with the old version still serving."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
from prometheus_client import CollectorRegistry
from tiny_models import VOCABULARY, collect, request_for, until

from services.contracts.probe import Probe
from services.contracts.sampling import Precision
from services.contracts.weights import (
    DIGEST_HEADER,
    ENCODING_FULL,
    ENCODING_HEADER,
    WeightsRefused,
    WeightsStatus,
    digest_of,
)
from services.rollout.control_api import control_application
from services.rollout.engine import RollbackFailedError, WeightSwap
from services.rollout.engines.torch_engine.engine import TorchEngine
from services.rollout.intake import WeightIntake
from services.rollout.metrics import RolloutMetrics
from services.runtime.http import serve

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

    async def push(self, version: int, body: bytes, digest: str, **headers: str) -> httpx.Response:
        return await self.client.put(
            f"/v1/weights/{version}",
            content=body,
            headers={ENCODING_HEADER: ENCODING_FULL, DIGEST_HEADER: digest} | headers,
        )

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
    body, digest = snapshot()
    broken = bytearray(body)
    broken[-1] ^= 1
    noise = b"\x00" * 1000
    for content, promised, field in ((bytes(broken), digest, "digest"), (noise, digest_of(noise), "snapshot")):
        answer = await replica.push(1, content, promised)
        assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert replica.engine.describe().version == 0


async def test_the_envelope_is_checked_before_the_body_is_taken(replica: Replica, snapshot: Callable) -> None:
    body, digest = snapshot()

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    chunked = await replica.client.put(
        "/v1/weights/1", content=pieces(), headers={ENCODING_HEADER: ENCODING_FULL, DIGEST_HEADER: digest}
    )
    too_large = await replica.push(1, bytes(70_000_000), digest)
    unknown_encoding = await replica.push(1, body, digest, **{ENCODING_HEADER: "delta"})
    no_digest = await replica.push(1, body, "")
    replica.intake.draining = True
    draining = await replica.push(1, body, digest)
    answers = (chunked, too_large, unknown_encoding, no_digest, draining)
    assert [answer.status_code for answer in answers] == [411, 413, 415, 422, 503]


async def test_an_upload_cut_off_in_the_middle_changes_nothing(replica: Replica, snapshot: Callable) -> None:
    body, digest = snapshot()
    port = replica.client.base_url.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"PUT /v1/weights/1 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"{ENCODING_HEADER}: {ENCODING_FULL}\r\n{DIGEST_HEADER}: {digest}\r\n\r\n"
    )
    writer.write(head.encode() + body[:1000])
    await writer.drain()
    await until(lambda: bool(list(replica.staging.iterdir())))
    writer.close()
    await writer.wait_closed()
    await until(lambda: not list(replica.staging.iterdir()))
    assert await reader.read() == b""
    assert replica.engine.describe().version == 0


async def test_pushes_that_race_leave_the_newest_version(replica: Replica, snapshot: Callable) -> None:
    snapshots = [(version, *snapshot(seed=version)) for version in (1, 2, 3)]
    answers = await asyncio.gather(*(replica.push(*push) for push in snapshots))
    assert {answer.status_code for answer in answers} <= {200, 409}
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
    async def lost(version: int, digest: str, snapshot: Path) -> WeightSwap:
        raise RollbackFailedError("version 0 could not be put back")

    monkeypatch.setattr(replica.engine, "swap_weights", lost)
    answer = await replica.push(1, *snapshot())
    assert (answer.status_code, answer.json()["reason"]) == (503, "version 0 could not be put back")
    assert replica.sample("ais_rollout_probe_rejections_total", previous="lost") == 1


async def test_a_malformed_probe_is_refused_by_field(replica: Replica, snapshot: Callable) -> None:
    unknown_token = Probe(token_ids=((1, VOCABULARY),), logprobs=((-1.0,),))
    answer = await replica.push(1, *snapshot(probe=unknown_token))
    assert (answer.status_code, answer.json()["field"]) == (422, "probe.token_ids[0]")
