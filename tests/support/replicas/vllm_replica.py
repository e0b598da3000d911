"""vLLM engines with their control API for tests, and what tests ask of the one of the session, which serves the demo's
policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from prometheus_client import CollectorRegistry
from safetensors.torch import load_file, save

from ais.contracts.sampling import SamplingParameters
from ais.contracts.weights.probe import PROBE_KEY, Probe, encode_probe
from ais.contracts.weights.upload import KEEPALIVE_SECONDS
from ais.rollout.engine import Completion, GenerationRequest
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.settings import RolloutSettings
from ais.rollout.weights.control_api import control_application
from ais.rollout.weights.intake import WeightIntake
from ais.runtime.network.http import serve
from tests.support.replicas.pushing import push

SORT16 = Path(__file__).parents[3] / "examples/sort16/model"
PROMPT = (1, 5, 6, 7, 8, 9, 3, 4, 5, 6, 7, 8, 9, 3, 4, 5, 6, 13)
"""A prompt of the demo's task."""
UNUSED_TOKEN = 0
"""Padding: a stop token that the policy hardly ever samples, so that responses end at their length."""
Tensors = dict[str, torch.Tensor]


@dataclass
class VllmReplica:
    """The served engine and a client of its control API. Versions only rise: tests share it."""

    engine: Any
    registry: CollectorRegistry
    client: httpx.AsyncClient

    async def push(self, *files: bytes) -> httpx.Response:
        """As the next version."""
        return await push(self.client, self.engine.describe().version + 1, *files)

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probs of each sequence's tokens but the first, under the weights that serve now."""
        llm = self.engine._llm
        await llm.pause_generation(mode="keep", clear_cache=True)
        ((scores, *_),) = [await llm.collective_rpc("ais_score", args=([list(one) for one in sequences],))]
        await llm.resume_generation()
        return [np.array(one) for one in scores]

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def vllm_replica_of(
    model: Path, settings: RolloutSettings, staging: Path, routing_replay: bool = False
) -> AsyncIterator[VllmReplica]:
    """Serves a model until the context ends. `staging`: where pushed weights are kept."""
    from ais.rollout.engines.vllm_engine.opening import open_vllm

    registry = CollectorRegistry()
    metrics = RolloutMetrics(registry)
    engine = await open_vllm(model, settings, metrics, registry, routing_replay)
    try:
        metrics.watch(engine)
        intake = WeightIntake(engine, staging, metrics, applied=lambda: None, model=[model / "model.safetensors"])
        limits = httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS)  # tests come seconds apart
        async with (
            serve(control_application(registry, lambda: None, intake), "127.0.0.1", 0) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as client,
        ):
            yield VllmReplica(engine, registry, client)
    finally:
        await engine.close()


def demo_snapshot(change: Callable[[Tensors], None] = lambda _tensors: None, probe: Probe | None = None) -> bytes:
    """The demo's policy, changed."""
    tensors = load_file(SORT16 / "model.safetensors")
    change(tensors)
    return save(tensors, metadata=None if probe is None else {PROBE_KEY: encode_probe(probe)})


def shaken(seed: int, share: float = 0.05) -> Callable[[Tensors], None]:
    """Every weight moved by about `share` of itself: another policy, clearly."""

    def change(tensors: Tensors) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in sorted(tensors.items()):
            noise = torch.randn(tensor.shape, generator=generator)
            tensors[name] = (tensor.float() * (1 + share * noise)).bfloat16()

    return change


def request(samples: int = 1, new_tokens: int = 24, ends: bool = False, **sampling: object) -> GenerationRequest:
    """`ends`: at the policy's own stop token; else at the length."""
    stops = () if ends else (UNUSED_TOKEN,)
    parameters = {"max_new_tokens": new_tokens, "stop_token_ids": stops, **sampling}
    return GenerationRequest("group", PROMPT, samples, SamplingParameters.model_validate(parameters), for_training=True)


async def collect(engine: Any, wanted: GenerationRequest) -> list[Completion]:
    """All completions by index."""
    return sorted([one async for one in engine.generate(wanted)], key=lambda one: one.index)


def whole(completion: Completion) -> list[int]:
    """Prompt and response."""
    return [*PROMPT, *completion.token_ids.tolist()]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # nothing tells
            await asyncio.sleep(0.005)
