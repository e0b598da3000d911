"""Versions sent as adapters: every replica serves the very files of the merged version, for a few of their bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from safetensors.torch import load_file, save_file

from ais.contracts.keys import Keys
from ais.trainer.weights.adapters import adapter
from ais.trainer.weights.deltas import Origin
from ais.trainer.weights.snapshot import Snapshot
from tests.support.replicas.adapter_versions import adapter_versions
from tests.support.replicas.publishing import CuttingProxy, publishing, sent, served
from tests.support.replicas.replica_stand_ins import Fleet
from tests.support.tiny_models import random_model, until

pytest.importorskip("peft", reason="needs the extra lora")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    random_model("qwen3", seed=0).save_pretrained(directory)
    return directory


@pytest.fixture
def files(model: Path) -> list[Path]:
    return [model / "model.safetensors"]


@pytest.fixture
def snapshot(model: Path, tmp_path: Path) -> Callable[[int], Snapshot]:
    return adapter_versions(model, tmp_path / "staging")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def size_of(version: Snapshot) -> int:
    """Bytes that are sent of its adapter."""
    return adapter(version, Origin()).offer.sent_bytes


def pushes(registry: CollectorRegistry, outcome: str) -> float:
    return registry.get_sample_value("ais_weight_pushes_total", {"outcome": outcome}) or 0.0


async def test_each_version_and_each_newcomer_takes_an_adapters_bytes(
    redis: Redis,
    keys: Keys,
    fleet: Fleet,
    registry: CollectorRegistry,
    files: list[Path],
    snapshot: Callable[[int], Snapshot],
) -> None:
    first = await fleet.join("first", model=files)
    async with publishing(redis, keys, registry, lora="adapter") as publisher:
        for number in (1, 2):
            publisher.offer(version := snapshot(number))
            await served(version, first)
        newcomer = await fleet.join("newcomer", model=files)
        await served(version, newcomer)
    each = size_of(version)
    assert len(version.files) > 1
    assert each < version.size / 4
    assert first.received_bytes == 2 * each
    assert newcomer.received_bytes == each
    assert sent(registry, "adapter") == 3 * each
    assert sent(registry, "full") == sent(registry, "delta") == 0


async def test_who_has_another_model_or_none_gets_merged_weights_and_then_deltas(
    redis: Redis,
    keys: Keys,
    fleet: Fleet,
    registry: CollectorRegistry,
    files: list[Path],
    snapshot: Callable[[int], Snapshot],
    tmp_path: Path,
) -> None:
    save_file({name: one + 1.0 for name, one in load_file(files[0]).items()}, tmp_path / "other.safetensors")
    usual = await fleet.join("usual", model=files)
    other = await fleet.join("other", model=[tmp_path / "other.safetensors"])
    without = await fleet.join("without")
    async with publishing(redis, keys, registry, lora="adapter") as publisher:
        for number in (1, 2):
            publisher.offer(version := snapshot(number))
            await served(version, usual, other, without)
            assert await publisher.settle(10.0)
    each = size_of(version)
    assert usual.received_bytes == 2 * each
    assert sent(registry, "full") == 2 * version.size
    assert sent(registry, "delta") > 0
    assert (other.swaps("409"), without.swaps("415"), pushes(registry, "rebased")) == (1, 1, 2), "each is asked once"


async def test_replicas_pass_adapters_on_to_each_other(
    redis: Redis,
    keys: Keys,
    fleet: Fleet,
    registry: CollectorRegistry,
    files: list[Path],
    snapshot: Callable[[int], Snapshot],
) -> None:
    replicas = [await fleet.join(f"replica-{index}", model=files) for index in range(5)]
    async with publishing(redis, keys, registry, lora="adapter", fanout=2, deadline_seconds=60) as publisher:
        await until(lambda: publisher.live_replicas == 5)
        publisher.offer(version := snapshot(1))
        await served(version, *replicas)
    assert {replica.received_bytes for replica in replicas} == {size_of(version)}
    assert sent(registry, "adapter") == 2 * size_of(version)


async def test_an_upload_that_is_cut_goes_on_at_the_byte(
    redis: Redis,
    keys: Keys,
    fleet: Fleet,
    registry: CollectorRegistry,
    files: list[Path],
    snapshot: Callable[[int], Snapshot],
) -> None:
    replica = await fleet.join("replica", model=files)
    async with AsyncExitStack() as stack:
        proxy = CuttingProxy(int(replica.url.rsplit(":", 1)[1]), cuts=[15_000])
        await fleet.register("replica", await proxy.serve(stack))
        async with publishing(redis, keys, registry, lora="adapter") as publisher:
            publisher.offer(version := snapshot(1))
            await served(version, replica)
    assert pushes(registry, "failed") == 1
    assert replica.received_bytes == size_of(version)


async def test_an_adapter_that_cannot_be_read_is_sent_merged(
    redis: Redis,
    keys: Keys,
    fleet: Fleet,
    registry: CollectorRegistry,
    files: list[Path],
    snapshot: Callable[[int], Snapshot],
) -> None:
    replica = await fleet.join("replica", model=files)
    (version := snapshot(1)).adapter.joinpath("adapter_model.safetensors").write_bytes(b"")
    async with publishing(redis, keys, registry, lora="adapter") as publisher:
        publisher.offer(version)
        await served(version, replica)
    assert sent(registry, "full") == version.size
    assert sent(registry, "adapter") == 0


def test_what_is_merged_does_not_depend_on_threads(snapshot: Callable[[int], Snapshot]) -> None:
    """A trainer computes with as many as it is given, and so does a replica."""
    threads = torch.get_num_threads()
    try:
        digests = []
        for count in (1, 3):
            torch.set_num_threads(count)
            digests.append(snapshot(1).digest)
    finally:
        torch.set_num_threads(threads)
    # The probes in the first file are equal as well, or this could not hold.
    assert digests[0] == digests[1]
