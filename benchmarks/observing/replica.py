"""What it costs rollouts: metrics of the replica, scrapes, and traces of both sides of a call.

A batch is sampled by the torch engine and brought over by gRPC to a client in the same process.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import torch
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase
from transformers import Qwen3ForCausalLM

from ais.collector.replicas.generation import GenerationClient
from ais.contracts.model_identity import identify_model
from ais.launcher.processes.commands import LOOPBACK
from ais.rollout.engines.probe import tolerance
from ais.rollout.engines.torch_engine.engine import TorchEngine
from ais.rollout.generation_api import GenerationService, ReplicaIdentity
from ais.rollout.generation_server import ServerLimits, serve_generation
from ais.rollout.metrics import RolloutMetrics
from ais.runtime.metrics.registry import service_registry
from ais.runtime.network.addresses import authority
from benchmarks.observing.scraping import scraping_cost
from benchmarks.observing.turns import KINDS, Kind, Moment, Part, figures, kind_of, turns
from benchmarks.rollout import E4M3, Case
from benchmarks.security.services import sample_all
from benchmarks.support.report import Figure

BATCHES = 2
"""In a row of one kind."""


def _itself(metric: Any, *_labels: object, **_named: object) -> Any:
    return metric


PARTS = (Part(MetricWrapperBase, "labels", _itself), Part(Counter, "inc"), Part(Histogram, "observe"))


async def observing_figures(case: Case, rounds: int, directory: Path) -> dict[str, Figure]:
    """After a round that warms up."""
    torch.manual_seed(0)
    Qwen3ForCausalLM(case.config).bfloat16().save_pretrained(directory)
    registry = service_registry("rollout", "benchmark")
    metrics = RolloutMetrics(registry)
    engine = await TorchEngine.open(
        directory,
        E4M3,
        metrics,
        slots=case.groups * case.samples,
        max_model_len=case.config.max_position_embeddings,
        max_waiting_sequences=0,
        probe_tolerance=tolerance(E4M3),
    )
    service = GenerationService(engine, ReplicaIdentity("benchmark", "benchmark", identify_model(directory)), metrics)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.close)
        server = await stack.enter_async_context(serve_generation(service, LOOPBACK, 0, ServerLimits()))
        client = GenerationClient(authority(LOOPBACK, server.port))
        stack.push_async_callback(client.close)
        taken = stack.enter_context(turns(PARTS))
        found: list[dict[Kind, Moment]] = []
        for number in range(len(KINDS) * (rounds + 1)):
            if number % len(KINDS) == 0:
                found.append({})
            taken.take(number)
            begin = taken.now()
            for _batch in range(BATCHES):
                await sample_all(client, case)
            found[-1][kind_of(number)] = taken.now().since(begin)
    name = f"rollout_{case.name}"
    scraping = {f"{name}_scraping_cost": await scraping_cost(registry)}
    return figures(name, f"{BATCHES} batches", found[1:]) | scraping
