"""The torch engine in its thread: what it samples, and what happens to requests and weights."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM

from ais.contracts.sampling import FinishReason, Precision
from ais.contracts.trajectory import PolicySpan
from ais.rollout.engine import (
    Completion,
    EngineDrainingError,
    EngineFailedError,
    EngineFullError,
    GenerationRequest,
    InvalidRequestError,
    ModelUnsupportedError,
    SamplingFailedError,
)
from ais.rollout.engines.probe import tolerance
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.rollout.engines.torch_engine.cache import KeyValueCache
from ais.rollout.engines.torch_engine.decoder import Decoder
from ais.rollout.engines.torch_engine.engine import TorchEngine
from ais.rollout.engines.torch_engine.probe import score
from ais.rollout.engines.torch_engine.weights import DecoderWeights, read_tensors, rounded_weights
from tests.support.tiny_models import VOCABULARY, Observer, collect, random_model, request_for, until

PROMPT = (1, 5, 9, 13, 17, 21, 25, 29, 33, 37)
BF16 = Precision(weights="bf16")


def recomputed(model: torch.nn.Module, prompt: tuple[int, ...], completion: Completion) -> np.ndarray:
    """Log-probs of the response by transformers' own forward pass at temperature 1, float32 [T]."""
    tokens = torch.tensor([[*prompt, *completion.token_ids.tolist()]])
    with torch.no_grad():
        logits = model(tokens).logits[0, len(prompt) - 1 : -1].float()
    chosen = torch.log_softmax(logits, -1).gather(-1, tokens[0, len(prompt) :, None])
    return np.asarray(chosen[:, 0])


def mean_error(logprobs: list[np.ndarray], reference: list[np.ndarray]) -> float:
    return float(np.abs(np.concatenate(logprobs) - np.concatenate(reference)).mean())


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
async def test_log_probs_are_as_near_to_exact_arithmetic_as_those_of_transformers_in_bf16(
    kind: str, open_engine: Callable, model_directory: Callable[[str], Path]
) -> None:
    engine = await open_engine(kind)
    requests = [request_for(PROMPT[:length], samples=4) for length in (1, 4, 10)]
    groups = await asyncio.gather(*(collect(engine, request) for request in requests))
    sampled = [
        (request.prompt_token_ids, completion)
        for request, group in zip(requests, groups, strict=True)
        for completion in group
    ]
    bf16, exact = (
        AutoModelForCausalLM.from_pretrained(model_directory(kind), dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    ours = [completion.logprobs for _, completion in sampled]
    reference = [recomputed(exact, *pair) for pair in sampled]
    noise = mean_error([recomputed(bf16, *pair) for pair in sampled], reference)
    assert 0.0 < noise < 0.1
    assert mean_error(ours, reference) < 1.3 * noise


@pytest.mark.parametrize(
    "precision",
    [
        Precision(),
        Precision(granularity="tensor"),
        Precision(granularity="block"),
        Precision(weights="e5m2", activations="e5m2"),
        Precision(weights="e2m1"),
        Precision(weights="int8", activations="int8"),
        Precision(weights="e4m3", activations="bf16"),
        Precision(weights="bf16", kv_cache="e4m3"),
        Precision(kv_cache="e5m2", head=True),
    ],
    ids=str,
)
async def test_a_quantised_policy_differs_from_its_bf16_policy(
    precision: Precision, open_engine: Callable, model_directory: Callable[[str], Path]
) -> None:
    exact = AutoModelForCausalLM.from_pretrained(model_directory("qwen3"), dtype=torch.float32)
    errors = []
    for served in (BF16, precision):
        completions = await collect(await open_engine(precision=served), request_for(PROMPT, samples=8))
        reference = [recomputed(exact, PROMPT, completion) for completion in completions]
        errors.append(mean_error([completion.logprobs for completion in completions], reference))
    assert 1.5 * errors[0] < errors[1] < 2.0


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
async def test_a_probe_is_scored_as_the_engine_samples(
    kind: str, open_engine: Callable, model_directory: Callable[[str], Path]
) -> None:
    precision = Precision(kv_cache="e4m3", head=True)
    completions = await collect(await open_engine(kind, precision=precision), request_for(PROMPT, samples=4))
    architecture = read_architecture(model_directory(kind))
    tensors = read_tensors(snapshot_files(model_directory(kind)), architecture)
    weights = rounded_weights(tensors, architecture, precision)
    sequences = [(*PROMPT, *completion.token_ids.tolist()) for completion in completions]
    scored = [np.array(logprobs[len(PROMPT) - 1 :]) for logprobs in score(weights, architecture, precision, sequences)]
    # Products of another height may add in another order, and a rounding then falls to the other side.
    assert mean_error(scored, [completion.logprobs for completion in completions]) < 0.02


@pytest.mark.parametrize(
    "precision",
    [BF16, Precision(weights="int8", activations="int8"), Precision(weights="e5m2", activations="e5m2")],
    ids=str,
)
async def test_a_probe_of_the_same_weights_is_within_each_precisions_tolerance(
    precision: Precision, open_engine: Callable, snapshot: Callable, probe_of_model: Callable, tmp_path: Path
) -> None:
    engine = await open_engine(precision=precision)
    body, digest = snapshot(seed=1, probe=probe_of_model(seed=1))
    (tmp_path / "pushed").write_bytes(body)
    swap = await engine.swap_weights(1, digest, [tmp_path / "pushed"])
    assert swap.probe_gap is not None
    assert 0.0 < swap.probe_gap < tolerance(precision)


async def test_a_cache_is_calibrated_on_each_versions_probe_and_sampled_from_with_these_scales(
    open_engine: Callable, snapshot: Callable, probe_of_model: Callable, tmp_path: Path
) -> None:
    precision = Precision(weights="bf16", kv_cache="e4m3", kv_scale="calibrated")
    engine = await open_engine(precision=precision)
    maxima = []
    for version, seed in ((1, 1), (2, 2)):
        probe = probe_of_model(seed=seed)
        body, digest = snapshot(seed=seed, probe=probe)
        (tmp_path / "pushed").write_bytes(body)
        swap = await engine.swap_weights(version, digest, [tmp_path / "pushed"])
        assert swap.probe_gap is not None
        assert 0.0 < swap.probe_gap < tolerance(precision)
        assert swap.cache is not None
        maxima.append({part: one.maximum for part, one in swap.cache.items()})
        largest = [layer.cache_scales for layer in engine._policy.weights.layers]
        assert maxima[-1] == pytest.approx(
            {part: 448.0 * max(float(getattr(one, part)) for one in largest) for part in ("keys", "values")}
        )
    assert maxima[0] != maxima[1]


async def test_a_seeded_request_samples_the_same_alone_and_in_a_crowd(open_engine: Callable) -> None:
    engine = await open_engine(slots=8, max_waiting_sequences=256)
    request = request_for(PROMPT, samples=4, seed=11)
    alone = await collect(engine, request)
    crowd = [request_for(PROMPT[: 1 + number % 9], samples=3, new_tokens=5 + number) for number in range(20)]
    in_a_crowd, *_ = await asyncio.gather(*(collect(engine, other) for other in (request, *crowd)))
    for one, other in zip(alone, in_a_crowd, strict=True):
        # A matrix product of another height may add in another order, and BF16 then rounds to another side.
        differing = np.flatnonzero(one.token_ids != other.token_ids)
        same = int(differing[0]) if differing.size else len(one.token_ids)
        assert same >= 4
        np.testing.assert_allclose(one.logprobs[:same], other.logprobs[:same], atol=0.1)
    equal = sum(bool((one.token_ids == other.token_ids).all()) for one, other in zip(alone, in_a_crowd, strict=True))
    assert equal >= 3


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize(
    "precision",
    [BF16, Precision(), Precision(weights="int8", activations="int8"), Precision(weights="bf16", kv_cache="e4m3")],
    ids=str,
)
async def test_a_batch_invariant_engine_gives_the_same_bits_alone_and_in_a_crowd(
    kind: str, precision: Precision, open_engine: Callable
) -> None:
    engine = await open_engine(kind, precision, slots=33, max_model_len=90, batch_invariant=True)
    request = request_for(PROMPT, samples=2, seed=11, new_tokens=70)
    alone = await collect(engine, request)
    crowd = [request_for(PROMPT[: 1 + number % 9], new_tokens=5 + 2 * number, seed=number) for number in range(30)]
    *_, in_a_crowd = await asyncio.gather(*(collect(engine, other) for other in (*crowd, request)))
    for one, other in zip(alone, in_a_crowd, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.logprobs.tolist() == other.logprobs.tolist()


async def test_a_processor_whose_products_depend_on_the_batch_is_refused_for_a_batch_invariant_engine(
    open_engine: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Decoder.decode

    def dependent(self: Decoder, weights: DecoderWeights, tokens: torch.Tensor, *arguments: Any) -> torch.Tensor:
        return decode(self, weights, tokens, *arguments) + 1e-6 * len(tokens)

    monkeypatch.setattr(Decoder, "decode", dependent)
    with pytest.raises(ModelUnsupportedError, match="depend on the size of its batch"):
        await open_engine(slots=32, batch_invariant=True)


async def test_samples_of_a_group_and_seeds_are_independent(open_engine: Callable) -> None:
    engine = await open_engine()
    requests = [request_for(PROMPT, samples=4, seed=seed) for seed in (1, 2, None, None)]
    responses = [tuple(c.token_ids.tolist()) for request in requests for c in await collect(engine, request)]
    assert len(set(responses)) == len(responses) == 16


async def test_more_sequences_than_slots_are_all_served(open_engine: Callable) -> None:
    engine = await open_engine(slots=3)
    groups = await asyncio.gather(*(collect(engine, request_for(PROMPT, samples=5)) for _ in range(4)))
    assert [[completion.index for completion in group] for group in groups] == [[0, 1, 2, 3, 4]] * 4


async def test_a_response_ends_with_the_models_own_stop_tokens_unless_others_are_asked_for(
    model_directory: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(model_directory("qwen3"), tmp_path / "model")
    (directory / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    engine = await TorchEngine.open(
        directory, BF16, Observer(), slots=16, max_model_len=512, max_waiting_sequences=0, probe_tolerance=0.1
    )
    try:
        for asked, stops in (((), {2, 3}), ((5,), {5})):
            request = request_for(PROMPT, samples=16, new_tokens=400, stop_token_ids=asked)
            stopped = [c for c in await collect(engine, request) if c.finish_reason is FinishReason.STOP]
            assert {int(completion.token_ids[-1]) for completion in stopped} == stops
            assert not any(stops & set(completion.token_ids[:-1].tolist()) for completion in stopped)
    finally:
        await engine.close()


async def test_a_response_ends_with_the_tokenizers_eos_where_the_model_declares_another(
    model_directory: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(model_directory("qwen3"), tmp_path / "model")
    (directory / "generation_config.json").write_text('{"eos_token_id": 2, "pad_token_id": 2}')
    vocabulary = {f"t{token}": token for token in range(VOCABULARY)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="t0")).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"eos_token": "t3"}')
    engine = await TorchEngine.open(
        directory, BF16, Observer(), slots=16, max_model_len=512, max_waiting_sequences=0, probe_tolerance=0.1
    )
    try:
        completions = await collect(engine, request_for(PROMPT, samples=16, new_tokens=400))
    finally:
        await engine.close()
    stopped = [completion for completion in completions if completion.finish_reason is FinishReason.STOP]
    assert {int(completion.token_ids[-1]) for completion in stopped} == {2, 3}


async def test_greedy_takes_the_most_likely_token(
    open_engine: Callable, model_directory: Callable[[str], Path]
) -> None:
    (completion,) = await collect(await open_engine(), request_for(PROMPT, new_tokens=8, temperature=0.0))
    model = AutoModelForCausalLM.from_pretrained(model_directory("qwen3"), dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *completion.token_ids.tolist()]])).logits[0, len(PROMPT) - 1 : -1]
    chosen = logits.gather(-1, torch.tensor(completion.token_ids, dtype=torch.int64)[:, None])[:, 0]
    assert (logits.max(-1).values - chosen).max() < 0.2, "within BF16's noise of the largest logit"
    assert (completion.logprobs == 0.0).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-38, 1e-45, 1e-300])
async def test_a_temperature_near_zero_harms_nobody_and_its_log_probs_are_numbers(
    temperature: float, open_engine: Callable
) -> None:
    engine = await open_engine()
    cold, warm = await asyncio.gather(
        collect(engine, request_for(PROMPT, samples=3, temperature=temperature)),
        collect(engine, request_for(PROMPT, samples=3)),
    )
    for completion in (*cold, *warm):
        assert np.isfinite(completion.logprobs).all()
        assert (completion.logprobs <= 0.0).all()


async def test_a_sample_without_a_distribution_fails_its_call_alone_and_leaves_nothing_behind(
    open_engine: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a poisoned token is fed, keys, values and logits are NaN, as an overflow in the model makes them."""
    poison, sound = 47, Decoder.decode

    def decode(
        self: Decoder,
        weights: DecoderWeights,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        length: int,
        cache: KeyValueCache,
    ) -> torch.Tensor:
        logits = sound(self, weights, tokens, positions, length, cache)
        for row in (tokens == poison).nonzero().flatten().tolist():
            logits[row] = torch.nan
            for tensor in (*cache.keys, *cache.values):
                tensor[row, :, : int(positions[row]) + 1] = torch.nan
        return logits

    observer = Observer()
    engine = await open_engine(slots=2, observer=observer)
    monkeypatch.setattr(Decoder, "decode", decode)
    last = {"stop_token_ids": (poison,)}
    beside = asyncio.create_task(collect(engine, request_for(PROMPT * 4, new_tokens=440, **last)))
    await observer.wait_for_steps(1)
    with pytest.raises(SamplingFailedError, match=r"sample 0 of group: .* NaN"):
        await collect(engine, request_for((*PROMPT, *PROMPT, poison), **last))
    # It takes the place of what failed, which lies behind it under the mask: the one beside it is longer.
    (shorter,) = await collect(engine, request_for(PROMPT[:2], new_tokens=10, **last))
    (longer,) = await beside
    assert np.isfinite(shorter.logprobs).all()
    assert np.isfinite(longer.logprobs).all()


async def test_weights_swapped_in_mid_flight_own_the_tokens_sampled_after_them(
    open_engine: Callable, model_directory: Callable[[str, int], Path]
) -> None:
    newer = model_directory("qwen3", 1) / "model.safetensors"
    observer = Observer()
    engine = await open_engine(observer=observer)
    running = asyncio.create_task(collect(engine, request_for(PROMPT, samples=4, new_tokens=480)))
    await observer.wait_for_steps(5)
    await engine.swap_weights(1, "blake3:one", [newer])
    completions = await running
    models = [random_model("qwen3", seed).float() for seed in (0, 1)]
    for completion in completions:
        before, after = completion.spans
        assert (before.version, after.version, after.end) == (0, 1, len(completion.token_ids))
        assert before.end == after.begin >= 5
        for span in completion.spans:
            tokens = slice(span.begin, span.end)
            right, wrong = (
                np.abs(completion.logprobs - recomputed(models[version], PROMPT, completion))[tokens].mean()
                for version in (span.version, 1 - span.version)
            )
            assert right < 0.05 < 0.5 < wrong
    assert (engine.describe().version, engine.describe().digest) == (1, "blake3:one")
    (later,) = await collect(engine, request_for(PROMPT))
    assert later.spans == (PolicySpan(1, 0, len(later.token_ids)),)


async def test_closing_a_generation_frees_its_slots(open_engine: Callable) -> None:
    observer = Observer()
    engine = await open_engine(slots=4, max_waiting_sequences=4, observer=observer)
    async with aclosing(engine.generate(request_for(PROMPT, samples=8, new_tokens=400))) as completions:
        first = asyncio.create_task(anext(completions))
        await observer.wait_for_steps(2)
        assert (engine.load().running_sequences, engine.load().waiting_sequences) == (4, 4)
        first.cancel()
        await asyncio.wait([first])
    assert len(await collect(engine, request_for(PROMPT, samples=8, new_tokens=3))) == 8
    assert (engine.load().running_sequences, engine.load().waiting_sequences) == (0, 0)


async def test_a_full_queue_refuses_and_has_room_again_later(open_engine: Callable) -> None:
    observer = Observer()
    engine = await open_engine(slots=2, max_waiting_sequences=2, observer=observer)
    running = asyncio.create_task(collect(engine, request_for(PROMPT, samples=3, new_tokens=50)))
    await observer.wait_for_steps(1)
    with pytest.raises(EngineFullError) as refusal:
        await collect(engine, request_for(PROMPT, samples=2))
    assert refusal.value.retry_after_seconds > 0
    await running
    assert len(await collect(engine, request_for(PROMPT, samples=2))) == 2


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (request_for(()), "prompt_token_ids"),
        (request_for((1,) * 512), "prompt_token_ids"),
        (request_for((1, VOCABULARY)), "prompt_token_ids"),
        (request_for((1,), stop_token_ids=(VOCABULARY,)), "sampling.stop_token_ids"),
        (request_for((1,), stop_token_ids=tuple(range(17))), "sampling.stop_token_ids"),
        (request_for((1,), samples=0), "samples"),
        (request_for((1,), samples=1000), "samples"),
    ],
)
async def test_a_request_that_can_never_be_served_is_refused_with_its_field(
    request_: GenerationRequest, field: str, open_engine: Callable
) -> None:
    engine = await open_engine()
    with pytest.raises(InvalidRequestError) as refusal:
        await collect(engine, request_)
    assert refusal.value.field == field


async def test_draining_finishes_what_runs_and_refuses_what_comes(open_engine: Callable) -> None:
    observer = Observer()
    engine = await open_engine(observer=observer)
    running = asyncio.create_task(collect(engine, request_for(PROMPT, samples=2, new_tokens=60)))
    await observer.wait_for_steps(1)
    draining = asyncio.create_task(engine.drain(deadline_seconds=30))
    await asyncio.sleep(0)
    with pytest.raises(EngineDrainingError):
        await collect(engine, request_for(PROMPT))
    assert len(await running) == 2
    await draining


async def test_what_a_drain_does_not_finish_in_time_is_handed_back_and_its_slots_are_free(
    open_engine: Callable,
) -> None:
    observer = Observer()
    engine = await open_engine(observer=observer)
    running = asyncio.create_task(collect(engine, request_for(PROMPT, samples=2, new_tokens=480)))
    await observer.wait_for_steps(1)
    await engine.drain(deadline_seconds=0.01)
    with pytest.raises(EngineDrainingError, match=r"0\.01 s"):
        await running
    await until(lambda: engine.load().running_sequences == 0)


async def test_closing_fails_what_runs(open_engine: Callable) -> None:
    observer = Observer()
    engine = await open_engine(observer=observer)
    running = asyncio.create_task(collect(engine, request_for(PROMPT, samples=2, new_tokens=480)))
    await observer.wait_for_steps(1)
    await engine.close()
    with pytest.raises(EngineFailedError):
        await running


async def test_a_broken_engine_fails_its_requests_and_says_so(
    open_engine: Callable, monkeypatch: pytest.MonkeyPatch, model_directory: Callable[[str, int], Path]
) -> None:
    engine: TorchEngine = await open_engine()
    told: asyncio.Future[EngineFailedError] = asyncio.get_running_loop().create_future()
    engine.on_failure(told.set_result)

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("ais.rollout.engines.torch_engine.decoder.Decoder.decode", broken)
    with pytest.raises(EngineFailedError, match="out of memory"):
        await collect(engine, request_for(PROMPT))
    assert "out of memory" in str(await told)
    with pytest.raises(EngineFailedError):
        await collect(engine, request_for(PROMPT))
    monkeypatch.undo()
    with pytest.raises(EngineFailedError):
        await engine.swap_weights(1, "blake3:one", [model_directory("qwen3", 1) / "model.safetensors"])


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (None, "config.json"),
        ('{"model_type": "gpt2"}', "model_type"),
        ('{"model_type": "llama", "hidden_act": "gelu"}', "hidden_act"),
        ('{"model_type": "qwen3", "use_sliding_window": true, "max_window_layers": 1}', "layer_types"),
        ('{"model_type": "llama", "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}', "rope_type"),
        ('{"model_type": "llama"}', "model.safetensors"),
    ],
)  # fmt: skip
async def test_a_model_that_cannot_be_served_is_refused_with_the_reason(
    config: str | None, complaint: str, tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelUnsupportedError, match=complaint):
        await TorchEngine.open(
            tmp_path, BF16, Observer(), slots=1, max_model_len=16, max_waiting_sequences=0, probe_tolerance=0.1
        )


async def test_observers_are_told_of_every_decode_step(open_engine: Callable) -> None:
    observer = Observer()
    engine = await open_engine(observer=observer)
    await collect(engine, request_for(PROMPT, samples=3, new_tokens=7))
    assert observer.steps == 7
