"""What vLLM samples through our engine, and what it says of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import numpy as np
import pytest

from ais.contracts.sampling import FinishReason, SamplingParameters
from ais.rollout.engine import EngineFullError, GenerationRequest, InvalidRequestError, Sampled
from tests.support.replicas.vllm_replica import PROMPT, VllmReplica, collect, request, until, whole

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
]  # the first one starts vLLM

STOP_TOKEN = 2
VOCABULARY = 22


async def test_a_group_comes_whole_with_tokens_logprobs_spans_and_reasons(vllm_replica: VllmReplica) -> None:
    version = vllm_replica.engine.describe().version
    completions = await collect(vllm_replica.engine, request(samples=8, ends=True, new_tokens=20))
    assert [completion.index for completion in completions] == list(range(8))
    for completion in completions:
        tokens = completion.token_ids
        assert len(tokens) == len(completion.logprobs) > 0
        assert (completion.logprobs <= 0).all()
        assert [(span.version, span.begin, span.end) for span in completion.spans] == [(version, 0, len(tokens))]
        assert (completion.finish_reason is FinishReason.STOP) == (tokens[-1] == STOP_TOKEN)
        assert STOP_TOKEN not in tokens[:-1]
        assert 0 < completion.first_token_seconds <= completion.total_seconds


async def test_the_recorded_logprobs_are_those_of_the_distribution_sampled_from(vllm_replica: VllmReplica) -> None:
    (completion,) = await collect(vllm_replica.engine, request(new_tokens=100))
    (scored,) = await vllm_replica.score([whole(completion)])
    np.testing.assert_allclose(completion.logprobs, scored[len(PROMPT) - 1 :], atol=1e-3)


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 4},
        {"temperature": 0.9, "top_p": 0.8},
        {"temperature": 1.2, "min_p": 0.1},
        {"temperature": 0.0},
    ],
    ids=str,
)
async def test_they_are_so_under_temperature_and_truncation(
    vllm_replica: VllmReplica, sampling: dict[str, float]
) -> None:
    """The whole distribution of a token is scored, token by token, and tempered and truncated here. BF16 sums of
    batches of another height differ in their last bits, and FP8 makes that visible."""
    (completion,) = await collect(vllm_replica.engine, request(new_tokens=24, **sampling))
    gaps, plain, among = [], [], []
    for place in range(0, len(completion.token_ids), 2):
        prefix = [*PROMPT, *completion.token_ids[:place].tolist()]
        scores = await vllm_replica.score([[*prefix, token] for token in range(VOCABULARY)])
        logprobs = np.array([score[-1] for score in scores])
        token, recorded = completion.token_ids[place], completion.logprobs[place]
        gaps.append(abs(recorded - np.log(distribution(logprobs, **sampling)[token])))
        plain.append(abs(recorded - logprobs[token]))
        if completion.kept is not None:
            begin = int(completion.kept.counts[:place].sum())
            ids = completion.kept.token_ids[begin : begin + completion.kept.counts[place]]
            tempered = logprobs / sampling["temperature"]
            among.append(abs(recorded - tempered[token] + np.logaddexp.reduce(tempered[[token, *ids]])))
    usual = np.mean(sorted(gaps)[:-2])  # where a last bit has flipped a rounding, a gap may be large
    assert usual < 0.02
    assert np.mean(plain) > 3 * usual
    truncated = "top_k" in sampling or "top_p" in sampling or "min_p" in sampling
    assert bool(among) == truncated, "the tokens kept are told where some are left out"
    assert not truncated or np.mean(sorted(among)[:-2]) < 0.02, "the token's log-prob is that among the tokens told"


def distribution(
    logprobs: np.ndarray, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    if temperature == 0.0:
        return (logprobs == logprobs.max()).astype(float)
    probabilities = np.exp(logprobs / temperature)
    probabilities[probabilities < min_p * probabilities.max()] = 0.0
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities)
    if top_k:
        probabilities[order[top_k:]] = 0.0
    before = np.cumsum(probabilities[order]) - probabilities[order]
    probabilities[order[before >= top_p]] = 0.0
    return probabilities / probabilities.sum()


async def test_seeded_groups_with_more_prompt_tokens_than_a_step_holds_are_all_served(
    vllm_replica: VllmReplica,
) -> None:
    """A prompt computed in parts would rewind a seeded generator, which no CPU generator can: the engine would die."""
    long = PROMPT + (5,) * 400
    groups = [GenerationRequest(f"group-{index}", (*long, index % 10 + 3), 1, seeded(index)) for index in range(12)]
    assert sum(len(group.prompt_token_ids) for group in groups) > 4096
    completions = await asyncio.gather(*(collect(vllm_replica.engine, group) for group in groups))
    assert [len(one.token_ids) for (one,) in completions] == [8] * 12


def seeded(seed: int) -> SamplingParameters:
    return SamplingParameters(max_new_tokens=8, stop_token_ids=(0,), seed=seed)


async def test_a_seed_repeats_a_group_and_gives_each_sample_its_own(vllm_replica: VllmReplica) -> None:
    first = await collect(vllm_replica.engine, request(samples=4, seed=11))
    second = await collect(vllm_replica.engine, request(samples=4, seed=11))
    assert [one.token_ids.tolist() for one in first] == [one.token_ids.tolist() for one in second]
    assert len({tuple(one.token_ids) for one in first}) == 4


async def test_each_sample_is_given_at_once(vllm_replica: VllmReplica) -> None:
    """The first of a group comes while others are still being sampled."""
    async with aclosing(vllm_replica.engine.generate(request(samples=16, new_tokens=400, ends=True))) as completions:
        await anext(completions)
        assert vllm_replica.engine.load().running_sequences + vllm_replica.engine.load().waiting_sequences > 0


async def test_a_streamed_call_gives_tokens_as_they_come_and_whole_completions(vllm_replica: VllmReplica) -> None:
    wanted = request(samples=2, new_tokens=24, seed=5)
    told: dict[int, list[int]] = {0: [], 1: []}
    logprobs: dict[int, list[float]] = {0: [], 1: []}
    finished, messages = {}, 0
    async for outcome in vllm_replica.engine.stream(wanted):
        if isinstance(outcome, Sampled):
            told[outcome.index] += outcome.token_ids
            logprobs[outcome.index] += outcome.logprobs
            messages += 1
        else:
            finished[outcome.index] = outcome
    assert sorted(finished) == [0, 1]
    for index, completion in finished.items():
        tokens = completion.token_ids.tolist()
        assert told[index] == tokens[: len(told[index])]
        assert logprobs[index] == completion.logprobs.tolist()[: len(told[index])]
        assert [(span.begin, span.end) for span in completion.spans] == [(0, 24)]
        assert len(completion.logprobs) == 24
    assert messages > 2


async def test_a_closed_call_frees_vllm_of_its_samples(vllm_replica: VllmReplica) -> None:
    async with aclosing(vllm_replica.engine.generate(request(samples=8, new_tokens=480))) as completions:
        waiting = asyncio.ensure_future(anext(completions))
        await until(lambda: vllm_replica.sample("vllm:num_requests_running", **engine_labels(vllm_replica)) == 8)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await collect(vllm_replica.engine, request())  # a step, after which vLLM says what it runs
    await until(lambda: vllm_replica.sample("vllm:num_requests_running", **engine_labels(vllm_replica)) == 0)
    load = vllm_replica.engine.load()
    assert (load.running_sequences, load.waiting_sequences) == (0, 0)


async def test_the_load_is_that_of_vllms_own_queue_and_a_full_one_is_refused(vllm_replica: VllmReplica) -> None:
    engine = vllm_replica.engine
    group = asyncio.create_task(collect(engine, request(samples=40, new_tokens=300)))
    await until(lambda: engine.load().running_sequences == 16)
    assert (engine.load().waiting_sequences, engine.load().slots) == (24, 16)
    # vLLM says so with the outputs of its next step, by when a sample may have ended.
    await until(
        lambda: (
            vllm_replica.sample("vllm:num_requests_waiting", **engine_labels(vllm_replica))
            == engine.load().waiting_sequences
            > 16
        )
    )
    with pytest.raises(EngineFullError):
        await collect(engine, request(samples=25))
    group.cancel()
    await asyncio.gather(group, return_exceptions=True)


async def test_a_temperature_that_vllm_would_change_is_refused(vllm_replica: VllmReplica) -> None:
    with pytest.raises(InvalidRequestError, match="temperature"):
        await collect(vllm_replica.engine, request(temperature=0.005))


async def test_vllms_own_metrics_stand_beside_ours(vllm_replica: VllmReplica) -> None:
    await collect(vllm_replica.engine, request())
    text = (await vllm_replica.client.get("/metrics")).text
    assert "vllm:generation_tokens_total" in text
    assert "ais_rollout_generated_tokens_total" in text
    assert vllm_replica.sample("ais_rollout_generated_tokens_total") > 0


def engine_labels(vllm_replica: VllmReplica) -> dict[str, str]:
    return {"engine": "0", "model_name": str(vllm_replica.engine._llm.model_config.served_model_name)}
