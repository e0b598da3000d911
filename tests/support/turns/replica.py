"""An FP8 replica of the demo's policy, served and connected to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from ais.collector.replicas.generation import GenerationClient
from ais.contracts.model_identity import ModelIdentity
from ais.contracts.sampling import Precision
from ais.contracts.trajectory import Trajectory
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.rollout.engines.torch_engine.engine import TorchEngine
from ais.rollout.engines.torch_engine.probe import score
from ais.rollout.engines.torch_engine.weights import read_tensors, rounded_weights
from ais.rollout.generation_api import GenerationService, ReplicaIdentity
from ais.rollout.generation_server import ServerLimits, serve_generation
from ais.rollout.metrics import RolloutMetrics
from tests.support.tiny_models import Observer

EXAMPLES = Path(__file__).parents[3] / "examples"
POLICY = EXAMPLES / "sort16" / "model"
FP8 = Precision()
VOCABULARY = 22
"""Characters of the small policies."""


@dataclass
class Replica:
    """A served engine and the connection to it."""

    engine: TorchEngine
    client: GenerationClient


@asynccontextmanager
async def served(policy: Path = POLICY, positions: int = 256) -> AsyncIterator[Replica]:
    torch.set_num_threads(1)
    async with AsyncExitStack() as stack:
        engine = await TorchEngine.open(
            policy, FP8, Observer(), slots=8, max_model_len=positions, max_waiting_sequences=64, probe_tolerance=1.0
        )
        stack.push_async_callback(engine.close)
        identity = ReplicaIdentity("replica", "run", ModelIdentity("blake3:model", "blake3:tokenizer"))
        service = GenerationService(engine, identity, RolloutMetrics(CollectorRegistry()))
        server = await stack.enter_async_context(serve_generation(service, "127.0.0.1", 0, ServerLimits()))
        client = GenerationClient(f"127.0.0.1:{server.port}")
        stack.push_async_callback(client.close)
        yield Replica(engine, client)


def rescoring(prompt_token_ids: list[int], trajectory: Trajectory, policy: Path) -> np.ndarray:
    """float [T]: the log-probs of the sampled tokens when the FP8 policy reads each passage of it as a whole."""
    architecture = read_architecture(policy)
    weights = rounded_weights(
        read_tensors(snapshot_files(policy), architecture), architecture, FP8, torch.device("cpu")
    )
    passages = trajectory.passages(np.array(prompt_token_ids, np.int32))
    wholes = [[*one.prompt_token_ids.tolist(), *one.text_token_ids.tolist()] for one in passages]
    scored = [np.array(one) for one in score(weights, architecture, FP8, wholes)]
    return np.concatenate(
        [one[len(read.prompt_token_ids) - 1 :][read.sampled] for one, read in zip(scored, passages, strict=True)]
    )
