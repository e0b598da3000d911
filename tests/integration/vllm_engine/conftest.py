"""One real vLLM engine for the whole session, FP8 on the demo's policy, behind the real APIs on loopback."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
import torch
from prometheus_client import CollectorRegistry
from safetensors.torch import load_file, save

from services.contracts.probe import Probe, attach_probe
from services.contracts.sampling import SamplingParameters
from services.contracts.weights import DIGEST_HEADER, ENCODING_FULL, ENCODING_HEADER, digest_of
from services.rollout.control_api import control_application
from services.rollout.engine import Completion, GenerationRequest
from services.rollout.intake import WeightIntake
from services.rollout.metrics import RolloutMetrics
from services.rollout.settings import RolloutSettings
from services.runtime.http import serve

MODEL = Path(__file__).parents[3] / "examples/sort16/model"
PROMPT = (1, 5, 6, 7, 8, 9, 3, 4, 5, 6, 7, 8, 9, 3, 4, 5, 6, 13)
"""A prompt of the demo's task."""
UNUSED_TOKEN = 0
"""Padding: a stop token that the policy never samples, so that responses end at their length."""
Tensors = dict[str, torch.Tensor]


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """vLLM is part of `make test`. Where it cannot be installed its tests are skipped, unless that must not be."""
    if importlib.util.find_spec("vllm") is None and os.environ.get("AIS_REQUIRE_VLLM") != "1":
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip("vLLM is not installed: `make setup ENGINE=vllm` says why"))


@dataclass
class Replica:
    """The served engine and a client of its control API. Versions only rise: tests share it."""

    engine: Any
    registry: CollectorRegistry
    client: httpx.AsyncClient

    async def push(self, snapshot: bytes, version: int | None = None, digest: str = "") -> httpx.Response:
        """As the next version, unless said otherwise."""
        version = self.engine.describe().version + 1 if version is None else version
        headers = {ENCODING_HEADER: ENCODING_FULL, DIGEST_HEADER: digest or digest_of(snapshot)}
        return await self.client.put(f"/v1/weights/{version}", content=snapshot, headers=headers)

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probs of each sequence's tokens but the first, under the weights that serve now."""
        llm = self.engine._llm
        await llm.pause_generation(mode="keep", clear_cache=True)
        ((scores, *_),) = [await llm.collective_rpc("ais_score", args=([list(one) for one in sequences],))]
        await llm.resume_generation()
        return [np.array(one) for one in scores]

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def replica(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replica]:
    from services.rollout.engines.vllm_engine.opening import open_vllm

    registry = CollectorRegistry()
    metrics = RolloutMetrics(registry)
    settings = RolloutSettings(engine="vllm", slots=16, max_waiting_sequences=48, max_model_len=512)
    engine = await open_vllm(MODEL, settings, metrics, registry)
    try:
        metrics.watch(engine)
        intake = WeightIntake(engine, tmp_path_factory.mktemp("staging"), metrics, applied=lambda: None)
        async with (
            serve(control_application(registry, lambda: None, intake), "127.0.0.1", 0) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
        ):
            yield Replica(engine, registry, client)
    finally:
        await engine.close()


def snapshot(change: Callable[[Tensors], None] = lambda _tensors: None, probe: Probe | None = None) -> bytes:
    """The demo's policy, changed."""
    tensors = load_file(MODEL / "model.safetensors")
    change(tensors)
    payload = save(tensors, metadata={"format": "pt"})
    return payload if probe is None else attach_probe(payload, probe)


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
    return GenerationRequest("group", PROMPT, samples, SamplingParameters.model_validate(parameters))


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
