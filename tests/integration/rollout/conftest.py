"""Engines that serve tiny random models, and snapshots to push to them; one real vLLM engine for the whole session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ais.contracts.sampling import Precision
from ais.contracts.weights.offer import digest_of
from ais.contracts.weights.probe import PROBE_KEY, Probe, encode_probe
from ais.rollout.engines.probe import tolerance
from ais.rollout.engines.torch_engine.engine import TorchEngine
from ais.rollout.settings import RolloutSettings
from tests.support.replicas.vllm_replica import SORT16, VllmReplica, vllm_replica_of
from tests.support.tiny_models import VOCABULARY, Observer, random_model

OpenEngine = Callable[..., Awaitable[TorchEngine]]


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """Directory of a random model, by kind and seed; llama in several shards."""
    made: dict[tuple[str, int], Path] = {}

    def directory(kind: str, seed: int = 0) -> Path:
        if (kind, seed) not in made:
            path = tmp_path_factory.mktemp(f"{kind}-{seed}")
            shard = "40KB" if kind == "llama" else "1GB"
            random_model(kind, seed).save_pretrained(path, max_shard_size=shard)
            made[kind, seed] = path
        return made[kind, seed]

    return directory


@pytest.fixture
async def open_engine(model_directory: Callable[[str, int], Path]) -> AsyncIterator[OpenEngine]:
    """Engines that are closed when the test ends."""
    torch.set_num_threads(1)
    async with AsyncExitStack() as stack:

        async def opened(
            kind: str = "qwen3",
            precision: Precision = Precision(weights="bf16"),  # noqa: B008  # frozen
            slots: int = 16,
            max_waiting_sequences: int = 64,
            max_model_len: int = 512,
            observer: Observer | None = None,
            probe_tolerance: float | None = None,
            batch_invariant: bool = False,
        ) -> TorchEngine:
            engine = await TorchEngine.open(
                model_directory(kind, 0),
                precision,
                observer or Observer(),
                slots=slots,
                max_model_len=max_model_len,
                max_waiting_sequences=max_waiting_sequences,
                probe_tolerance=probe_tolerance or tolerance(precision),
                batch_invariant=batch_invariant,
            )
            stack.push_async_callback(engine.close)
            return engine

        yield opened


@pytest.fixture
def probe_of_model(model_directory: Callable[[str, int], Path]) -> Callable[..., Probe]:
    """What a BF16 trainer with the weights of a random model would send: transformers' own forward pass."""

    def make(kind: str = "qwen3", seed: int = 1, lengths: tuple[int, ...] = (24, 2, 40)) -> Probe:
        model = AutoModelForCausalLM.from_pretrained(model_directory(kind, seed), dtype=torch.bfloat16)
        generator = torch.Generator().manual_seed(0)
        sequences = [torch.randint(0, VOCABULARY, (length,), generator=generator) for length in lengths]
        with torch.no_grad():
            scores = [torch.log_softmax(model(tokens[None, :-1]).logits[0].float(), -1) for tokens in sequences]
        logprobs = [score.gather(1, tokens[1:, None])[:, 0] for score, tokens in zip(scores, sequences, strict=True)]
        return Probe(tuple(tuple(one.tolist()) for one in sequences), tuple(tuple(one.tolist()) for one in logprobs))

    return make


@pytest.fixture
def snapshot(model_directory: Callable[[str, int], Path], tmp_path: Path) -> Callable[..., tuple[bytes, str]]:
    """Body and digest of a push of random weights, after `change` has had its way with them; `probe` goes with them."""

    def make(
        seed: int = 1,
        change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
        probe: Probe | None = None,
    ) -> tuple[bytes, str]:
        tensors = load_file(model_directory("qwen3", seed) / "model.safetensors")
        change(tensors)
        metadata = None if probe is None else {PROBE_KEY: encode_probe(probe)}
        save_file(tensors, tmp_path / "snapshot.safetensors", metadata)
        body = (tmp_path / "snapshot.safetensors").read_bytes()
        return body, digest_of(body)

    return make


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_replica(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmReplica]:
    settings = RolloutSettings(engine="vllm", slots=16, max_waiting_sequences=48, max_model_len=512)
    async with vllm_replica_of(SORT16, settings, tmp_path_factory.mktemp("staging")) as replica:
        yield replica
