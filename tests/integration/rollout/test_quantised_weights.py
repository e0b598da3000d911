"""Versions that are quantised at the trainer: the real publisher, and replicas with the real torch engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import torch
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.sampling import Precision
from ais.contracts.weights.forms import BF16, form_of_precision
from ais.contracts.weights.offer import Offer, RelayTarget
from ais.contracts.weights.probe import Probe
from ais.contracts.weights.upload import ShardFile, these, upload
from ais.rollout.engines.torch_engine.engine import TorchEngine
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.weights.control_api import control_application
from ais.rollout.weights.intake import WeightIntake
from ais.rollout.weights.relay import Relay
from ais.runtime.network.http import serve
from ais.runtime.tasks import end_tasks
from ais.trainer.weights.deltas import Origin, full
from ais.trainer.weights.forms import quantised
from ais.trainer.weights.snapshot import Snapshot, Staging, take_snapshot
from tests.support.records import replica_record
from tests.support.replicas.publishing import publishing, sent
from tests.support.replicas.pushing import push
from tests.support.tiny_models import collect, request_for, until

E4M3 = Precision(weights="e4m3")
PLAIN = Precision(weights="bf16")
UP = "model.layers.1.mlp.up_proj.weight"
Version = Callable[..., Snapshot]


@pytest.fixture
def version(model_directory: Callable, probe_of_model: Callable, tmp_path: Path) -> Version:
    """Versions of a random model, in several shards; each moves 1% of the weights of the one before. 1 has a probe."""
    staging = tmp_path / "trainer"
    staging.mkdir()

    def make(number: int, kind: str = "qwen3") -> Snapshot:
        tensors: dict[str, torch.Tensor] = {}
        for file in sorted(model_directory(kind, 1).glob("*.safetensors")):
            tensors |= load_file(file)
        generator = torch.Generator()
        for step in range(1, number):
            generator.manual_seed(step)
            for tensor in tensors.values():
                tensor[torch.rand(tensor.shape, generator=generator) < 0.01] *= 1.02
        probe: Probe | None = probe_of_model(kind) if number == 1 else None
        return take_snapshot(number, tensors, probe, Staging(staging, shard_bytes=60_000))

    return make


@dataclass
class Replica:
    """A torch engine behind its control API, in the registry."""

    engine: TorchEngine
    intake: WeightIntake
    metrics: CollectorRegistry
    url: str

    def record(self, name: str) -> ReplicaRecord:
        told = self.engine.describe()
        return replica_record(
            name,
            http_url=self.url,
            engine=told.engine,
            precision=told.precision,
            model_type=told.model_type,
            vocab_size=told.vocab_size,
            parameter_count=told.parameter_count,
            policy_version=told.version,
            policy_digest=told.digest,
        )

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(name, labels) or 0.0

    @property
    def received(self) -> float:
        return self.sample("ais_rollout_weight_received_bytes_total")

    async def serves(self, snapshot: Snapshot, form: str) -> None:
        """Waits for the version, which has come in that form."""

        def there() -> bool:
            status = self.intake.status()
            return (status.version, status.digest) == snapshot.identity

        await until(there)
        assert self.intake.status().form == form


Join = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def join(open_engine: Callable, redis: Redis, keys: Keys, tmp_path: Path) -> AsyncIterator[Join]:
    """Starts replicas, and renews their records all the time."""
    registry, replicas = ReplicaRegistry(redis, keys), dict[str, Replica]()

    async def beat() -> None:
        while True:
            for name, replica in list(replicas.items()):
                await registry.heartbeat(replica.record(name))
            await asyncio.sleep(0.05)

    async with AsyncExitStack() as stack:

        async def start(precision: Precision, kind: str = "qwen3", shared: Path | None = None) -> Replica:
            name = f"replica-{len(replicas)}"
            staging = tmp_path / name
            staging.mkdir()
            metrics = CollectorRegistry()
            engine = await open_engine(kind, precision)
            measured = RolloutMetrics(metrics)
            relay = Relay(measured, registry.urls)
            intake = WeightIntake(engine, staging, measured, applied=lambda: None, relay=relay, shared=shared)
            stack.push_async_callback(intake.close)
            app = control_application(metrics, lambda: None, intake)
            port = await stack.enter_async_context(serve(app, "127.0.0.1", 0))
            replicas[name] = Replica(engine, intake, metrics, f"http://127.0.0.1:{port}")
            await registry.heartbeat(replicas[name].record(name))
            return replicas[name]

        beating = asyncio.create_task(beat())
        yield start
        await end_tasks(beating)


async def sampled(engine: TorchEngine) -> list[tuple[list[int], bytes]]:
    """Tokens and log-probs, to the bit, of a few seeded sequences."""
    completions = await collect(engine, request_for((1, 5, 9), samples=4, seed=7))
    return [(one.token_ids.tolist(), one.logprobs.tobytes()) for one in completions]


def files_of(snapshot: Snapshot) -> list[Path]:
    return [file.path for file in snapshot.files]


@pytest.mark.parametrize("head", [False, True], ids=["head-bf16", "head-too"])
@pytest.mark.parametrize("weights", ["e4m3", "e5m2"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
async def test_what_is_quantised_at_the_trainer_computes_the_same_to_the_bit(
    kind: str, weights: str, head: bool, open_engine: Callable, version: Version
) -> None:
    """qwen3 has a head of its own, llama one tied to its embedding, and biases."""
    precision = Precision.model_validate({"weights": weights, "activations": weights, "head": head})
    engine, new = await open_engine(kind, precision), version(1, kind)
    before = await sampled(engine)
    from_bf16 = await engine.swap_weights(1, new.digest, files_of(new))
    expected = await sampled(engine)
    small = quantised(new, form_of_precision(precision))
    assert len(small.files) == len(new.files) > 1
    from_codes = await engine.swap_weights(2, new.digest, files_of(small))
    assert await sampled(engine) == expected != before
    assert from_codes.probe_gap == from_bf16.probe_gap is not None


def test_a_form_is_the_same_bytes_every_time_and_half_as_many_where_linear_layers_dominate(tmp_path: Path) -> None:
    tensors = {
        "model.layers.0.mlp.up_proj.weight": torch.randn(2048, 1024),
        "model.layers.0.mlp.down_proj.weight": torch.randn(1024, 2048),
        "model.embed_tokens.weight": torch.randn(101, 1024),
    }
    new = take_snapshot(3, tensors, Probe(((1, 2),), ((-1.0,),)), Staging(tmp_path))
    one, *again = (quantised(new, "e4m3") for _ in range(8))
    assert {file.digest for made in again for file in made.files} == {file.digest for file in one.files}
    assert 0.5 < one.size / new.size < 0.53
    assert one.identity == new.identity


async def test_a_mixed_fleet_gets_codes_or_bf16_as_each_computes(
    redis: Redis, keys: Keys, join: Join, open_engine: Callable, version: Version
) -> None:
    fp8, plain, coarse = await join(E4M3), await join(PLAIN), await join(Precision(granularity="tensor"))
    reference, registry, new = await open_engine(precision=E4M3), CollectorRegistry(), version(1)
    await reference.swap_weights(1, new.digest, files_of(new))
    async with publishing(redis, keys, registry, wire="replica") as publisher:
        publisher.offer(new)
        await fp8.serves(new, "e4m3")
        await plain.serves(new, BF16)
        await coarse.serves(new, BF16)
        assert await publisher.settle(10.0)
    assert await sampled(fp8.engine) == await sampled(reference)
    assert fp8.received == quantised(new, "e4m3").size < 0.7 * new.size
    assert plain.received == coarse.received == new.size
    assert registry.get_sample_value("ais_weight_form_seconds_count") == 1
    assert (fp8.intake.status().probe_gap or 0.0) > 0.0


async def test_everybody_gets_bf16_unless_the_setting_says_otherwise(
    redis: Redis, keys: Keys, join: Join, version: Version
) -> None:
    replica, new = await join(E4M3), version(1)
    async with publishing(redis, keys, CollectorRegistry()) as publisher:
        publisher.offer(new)
        await replica.serves(new, BF16)


async def test_the_next_version_is_a_delta_between_the_two_quantised_forms(
    redis: Redis, keys: Keys, join: Join, open_engine: Callable, version: Version, tmp_path: Path
) -> None:
    fp8, plain, reference = await join(E4M3), await join(PLAIN), await open_engine(precision=E4M3)
    registry = CollectorRegistry()
    async with publishing(redis, keys, registry, wire="replica") as publisher:
        for number in (1, 2):
            publisher.offer(new := version(number))
            await fp8.serves(new, "e4m3")
            await plain.serves(new, BF16)
            assert await publisher.settle(10.0)
        # The form of a version that nobody needs goes with it.
        await until(lambda: [path.name[:7] for path in (tmp_path / "trainer").glob("form-*")] == ["form-2-"])
        full = fp8.received
        publisher.offer(new := version(3))
        await fp8.serves(new, "e4m3")
    await reference.swap_weights(3, new.digest, files_of(new))
    assert await sampled(fp8.engine) == await sampled(reference)
    small = quantised(new, "e4m3").size
    assert 0 < fp8.received - full < 0.5 * small
    first = version(1)
    assert sent(registry, "full") == quantised(first, "e4m3").size + first.size, "each replica had one whole version"


async def test_forms_and_their_deltas_are_taken_from_a_shared_directory_and_compute_the_same_to_the_bit(
    redis: Redis, keys: Keys, join: Join, open_engine: Callable, version: Version, tmp_path: Path
) -> None:
    shared = tmp_path / "trainer"
    near, reference, registry = await join(E4M3, shared=shared), await open_engine(precision=E4M3), CollectorRegistry()
    async with publishing(redis, keys, registry, shared=shared, wire="replica") as publisher:
        for number in (1, 2):
            publisher.offer(new := version(number))
            await near.serves(new, "e4m3")
            assert await publisher.settle(10.0)
    assert registry.get_sample_value("ais_weight_push_seconds_count", {"encoding": "delta"}) == 1
    assert near.sample("ais_rollout_weight_shared_shards_total", outcome="taken") == 2 * len(new.files)
    assert near.received == sent(registry, "full") == sent(registry, "delta") == 0
    await reference.swap_weights(2, new.digest, files_of(new))
    assert await sampled(near.engine) == await sampled(reference)


async def test_a_base_in_another_form_is_no_base(
    redis: Redis, keys: Keys, join: Join, open_engine: Callable, version: Version
) -> None:
    """The trainer was started again with another setting."""
    replica, reference, registry = await join(E4M3), await open_engine(precision=E4M3), CollectorRegistry()
    first, second = version(1), version(2)
    async with publishing(redis, keys, CollectorRegistry(), 1) as publisher:
        publisher.offer(first)
        await replica.serves(first, BF16)
    async with publishing(redis, keys, registry, 2, wire="replica") as publisher:
        publisher.offer(first)
        await until(lambda: replica.intake.status().incarnation == 2)
        publisher.offer(second)
        await replica.serves(second, "e4m3")
        assert await publisher.settle(10.0)
    assert registry.get_sample_value("ais_weight_pushes_total", {"outcome": "rebased"}) == 1
    await reference.swap_weights(2, second.digest, files_of(second))
    assert await sampled(replica.engine) == await sampled(reference)


async def test_an_engine_that_does_not_take_the_form_is_asked_once_and_gets_bf16(
    redis: Redis, keys: Keys, join: Join, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await join(E4M3)
    told = replica.engine.describe
    monkeypatch.setattr(replica.engine, "describe", lambda: replace(told(), forms=frozenset((BF16,))))
    async with publishing(redis, keys, CollectorRegistry(), wire="replica") as publisher:
        for number in (1, 2):
            publisher.offer(new := version(number))
            await replica.serves(new, BF16)
            assert await publisher.settle(10.0)
    assert replica.sample("ais_rollout_weight_swaps_total", outcome="415") == 1
    assert replica.sample("ais_rollout_weight_swaps_total", outcome="applied") == 2


async def test_a_form_that_cannot_be_written_is_bf16(
    redis: Redis, keys: Keys, join: Join, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(snapshot: Snapshot, form: str) -> Snapshot:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ais.trainer.weights.forms.quantised", full_disk)
    replica = await join(E4M3)
    async with publishing(redis, keys, CollectorRegistry(), wire="replica") as publisher:
        for number in (1, 2):
            publisher.offer(new := version(number))
            await replica.serves(new, BF16)
            assert await publisher.settle(10.0)


async def test_replicas_of_one_precision_pass_codes_on_to_each_other(
    redis: Redis, keys: Keys, join: Join, version: Version
) -> None:
    replicas, plain, registry = [await join(E4M3) for _ in range(3)], await join(PLAIN), CollectorRegistry()
    settings = {"wire": "replica", "fanout": 2, "deadline_seconds": 60}
    async with publishing(redis, keys, registry, **settings) as publisher:
        await until(lambda: publisher.live_replicas == 4)
        publisher.offer(new := version(1))
        for replica in replicas:
            await replica.serves(new, "e4m3")
        await plain.serves(new, BF16)
        assert await publisher.settle(10.0)
    small = quantised(new, "e4m3").size
    assert {replica.received for replica in replicas} == {small}
    assert sent(registry, "full") < 3 * small + new.size, "not every one came from the trainer"


async def test_a_replica_passes_on_only_the_form_that_it_holds(
    join: Join, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, child, new = await join(E4M3), await join(E4M3), version(1)
    passed_on: list[str] = []
    pass_on = holder.intake._relay.pass_on

    def noted(offer: Offer, shard_file: ShardFile) -> asyncio.Task[None]:
        passed_on.append(offer.form)
        return pass_on(offer, shard_file)

    monkeypatch.setattr(holder.intake._relay, "pass_on", noted)
    small, below = quantised(new, "e4m3"), (RelayTarget(url=child.url),)
    async with httpx.AsyncClient(timeout=20) as client:
        for snapshot, relay in ((new, ()), (small, below)):
            parcel = full(snapshot, Origin())
            offer = parcel.offer.model_copy(update={"relay": relay})
            status = await upload(client, holder.url, offer, these(parcel.files))
            assert status.form == BF16
        offer = full(new, Origin()).offer.model_copy(update={"relay": below})
        await upload(client, holder.url, offer, these(files_of(new)))
        await child.serves(new, BF16)
    assert passed_on == [BF16], "its files are not the codes that were offered"


Tensors = dict[str, torch.Tensor]


def not_a_number(tensors: Tensors) -> None:
    tensors[UP].view(torch.uint8)[3, 5] = 0x7F


def scale_zero(tensors: Tensors) -> None:
    tensors[f"{UP}_scale"][3] = 0.0


def scale_infinite(tensors: Tensors) -> None:
    tensors[f"{UP}_scale"][3] = torch.inf


def scale_missing(tensors: Tensors) -> None:
    del tensors[f"{UP}_scale"]


def one_scale(tensors: Tensors) -> None:
    tensors[f"{UP}_scale"] = tensors[f"{UP}_scale"][:1].clone()


def other_codes(tensors: Tensors) -> None:
    tensors[UP] = tensors[UP].view(torch.float8_e5m2)


def not_quantised(tensors: Tensors) -> None:
    tensors[UP] = tensors[UP].bfloat16()


def wrong_scales(tensors: Tensors) -> None:
    for name in tensors:
        if name.endswith("_scale"):
            tensors[name] *= 4.0


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (not_a_number, UP),
        (scale_zero, f"{UP}_scale"),
        (scale_infinite, f"{UP}_scale"),
        (scale_missing, f"{UP}_scale"),
        (one_scale, f"{UP}_scale"),
        (other_codes, UP),
        (not_quantised, UP),
        (wrong_scales, "probe"),
    ],
)
async def test_damaged_codes_and_scales_are_refused_by_name_and_the_old_version_serves(
    damage: Callable[[Tensors], None], field: str, join: Join, version: Version, tmp_path: Path
) -> None:
    replica, new = await join(E4M3), version(1)
    before = await sampled(replica.engine)
    small = quantised(new, "e4m3")
    tensors: Tensors = {}
    for file in files_of(small):
        tensors |= load_file(file)
    damage(tensors)
    with safe_open(files_of(small)[0], framework="numpy") as opened:
        save_file(tensors, tmp_path / "damaged", opened.metadata())
    async with httpx.AsyncClient(base_url=replica.url, timeout=20) as client:
        body = (tmp_path / "damaged").read_bytes()
        answer = await push(client, 1, body, form="e4m3", digest=new.digest)
        assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
        unknown = await push(client, 1, body, form="e5m2", digest=new.digest)
        assert (unknown.status_code, unknown.json()["field"]) == (415, "form")
    assert replica.engine.describe().version == 0
    assert await sampled(replica.engine) == before
