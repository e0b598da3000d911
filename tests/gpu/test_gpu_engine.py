"""The torch engine on a GPU computes the policy that it computes on a processor, in each number format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ais.contracts.sampling import Precision, SamplingParameters
from ais.rollout.engine import Completion, GenerationRequest
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.engines.torch_engine.architecture import Architecture, read_architecture
from ais.rollout.engines.torch_engine.batch import Batch, ServedPolicy
from ais.rollout.engines.torch_engine.linear import rounded_linear
from ais.rollout.engines.torch_engine.probe import score
from ais.rollout.engines.torch_engine.slots import Group
from ais.rollout.engines.torch_engine.weights import DecoderWeights, read_tensors, rounded_weights
from tests.support.tiny_models import VOCABULARY, random_model

CPU = torch.device("cpu")
PRECISIONS = {
    "bf16": (Precision(weights="bf16"), 0.03),
    "e4m3": (Precision(), 0.12),
    "e4m3 everywhere": (Precision(kv_cache="e4m3", head=True), 0.15),
    "e5m2": (Precision(weights="e5m2", granularity="tensor", activations="e5m2"), 0.12),
    "blocks": (Precision(granularity="block"), 0.12),
    "int8": (Precision(weights="int8", activations="int8"), 0.06),
    "w4a8": (Precision(weights="e2m1"), 0.12),
}
"""Precisions, and the most by which log-probs of random weights may differ in the mean, nats: a sum that is added in
another order is rounded to another BF16 value now and then, and that to another code. Layers alone are held to a single
BF16 step."""
SAMPLES, RESPONSE = 32, 24
PROMPT = tuple(range(1, 40))


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    random_model(request.param, seed=1).save_pretrained(directory)
    return directory


def weights_on(device: torch.device, model: Path, precision: Precision) -> tuple[Architecture, DecoderWeights]:
    architecture = read_architecture(model)
    tensors = read_tensors(snapshot_files(model), architecture)
    return architecture, rounded_weights(tensors, architecture, precision, device)


def sampled(architecture: Architecture, precision: Precision, weights: DecoderWeights) -> list[Completion]:
    """Seeded responses, by index."""
    policy = ServedPolicy(weights, version=0, digest="")
    batch = Batch(architecture, precision, policy, slots=SAMPLES - 5, positions=len(PROMPT) + RESPONSE)
    sampling = SamplingParameters(max_new_tokens=RESPONSE)
    batch.submit(Group(0, GenerationRequest("0", PROMPT, SAMPLES, sampling), (), seed=7, arrived=0.0))
    found: list[Completion] = []
    while not batch.slots.idle:
        found += [one.outcome for one in batch.step() if isinstance(one.outcome, Completion)]
        if len(found) == 0:
            batch.replace(policy)  # what is in the cache is computed again
    return sorted(found, key=lambda one: one.index)


@torch.inference_mode()
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 200])
@pytest.mark.parametrize("name", PRECISIONS)
def test_a_layer_is_the_processors_but_for_the_order_of_additions(
    name: str, rows: int, biased: bool, device: torch.device
) -> None:
    precision, _ = PRECISIONS[name]
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(size, 256, generator=generator).bfloat16() * 0.05 for size in (128, 32)]
    biases = [torch.randn(size, generator=generator) for size in (128, 32)] if biased else []
    inputs = torch.randn(rows, 256, generator=generator).bfloat16()
    found, expected = (
        rounded_linear([one.to(where) for one in weights], [one.to(where) for one in biases], precision)(
            inputs.to(where)
        )
        for where in (device, CPU)
    )
    torch.testing.assert_close(found.cpu(), expected, rtol=2.0**-7, atol=2e-3)


@torch.inference_mode()
@pytest.mark.parametrize("name", PRECISIONS)
def test_log_probs_are_the_processors(name: str, model: Path, device: torch.device) -> None:
    precision, limit = PRECISIONS[name]
    sequences = torch.randint(0, VOCABULARY, (6, 64), generator=torch.Generator().manual_seed(0)).tolist()
    found, expected = (
        np.array(score(weights, architecture, precision, sequences))
        for architecture, weights in (weights_on(where, model, precision) for where in (device, CPU))
    )
    assert np.isfinite(found).all()
    assert float(np.abs(found - expected).mean()) < limit


@torch.inference_mode()
@pytest.mark.parametrize("name", ["bf16", "e4m3", "e4m3 everywhere", "int8"])
def test_what_a_token_was_sampled_with_is_what_it_scores(name: str, model: Path, device: torch.device) -> None:
    """Decoding step by step, through a cache and a replaced policy, gives the log-probs of whole sequences."""
    precision, limit = PRECISIONS[name]
    architecture, weights = weights_on(device, model, precision)
    completions = sampled(architecture, precision, weights)
    assert len(completions) == SAMPLES
    sequences = [[*PROMPT, *one.token_ids.tolist()] for one in completions]
    scored = np.array(score(weights, architecture, precision, sequences))[:, len(PROMPT) - 1 :]
    recorded = np.array([one.logprobs for one in completions])
    assert float(np.abs(scored - recorded).mean()) < limit


@torch.inference_mode()
@pytest.mark.parametrize(("name", "share"), [("bf16", 0.9), ("e4m3", 0.6), ("int8", 0.6)])
def test_a_seed_draws_nearly_the_same_tokens(name: str, share: float, model: Path, device: torch.device) -> None:
    """The random numbers are the same, and so are first tokens but where a number falls between two distributions.

    All samples have one prompt and so one distribution: where codes fell differently it is another for all of them.
    """
    precision, _ = PRECISIONS[name]
    found, expected = (
        sampled(architecture, precision, weights)
        for architecture, weights in (weights_on(where, model, precision) for where in (device, CPU))
    )
    first = [one.token_ids[0] == other.token_ids[0] for one, other in zip(found, expected, strict=True)]
    assert sum(first) >= share * SAMPLES
    likely = [np.mean([one.logprobs.mean() for one in side]) for side in (found, expected)]
    assert abs(likely[0] - likely[1]) < 0.15
