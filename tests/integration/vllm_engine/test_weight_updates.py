"""New weights in a live vLLM engine, over the real control API: applied whole, or refused with nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import MODEL, PROMPT, Replica, Tensors, collect, request, shaken, snapshot, until, whole
from safetensors.torch import load_file

from services.contracts.probe import Probe
from services.contracts.weights import WeightsRefused, WeightsStatus
from services.rollout.engine import Completion

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEQUENCE = (*PROMPT, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 2)


async def applied(replica: Replica, payload: bytes) -> WeightsStatus:
    answer = await replica.push(payload)
    assert answer.status_code == 200, answer.text
    return WeightsStatus.model_validate(answer.json())


async def test_going_to_other_weights_and_back_restores_logprobs_to_the_bit(replica: Replica) -> None:
    await applied(replica, snapshot())
    (before,) = await replica.score([SEQUENCE])
    await applied(replica, snapshot(shaken(1)))
    (other,) = await replica.score([SEQUENCE])
    await applied(replica, snapshot())
    (after,) = await replica.score([SEQUENCE])
    assert (before == after).all()
    assert np.abs(other - before).mean() > 0.01


async def mid_generation(replica: Replica, payload: bytes) -> list[Completion]:
    """Responses during which `payload` was pushed and answered."""
    samples = asyncio.create_task(collect(replica.engine, request(samples=8, new_tokens=450)))
    begun = replica.sample("ais_rollout_generated_tokens_total")
    await until(lambda: replica.sample("ais_rollout_generated_tokens_total") > begun + 200)
    await applied(replica, payload)
    assert not samples.done(), "the update came too late to show anything"
    return await samples


async def test_running_sequences_go_on_with_the_new_version_and_spans_say_from_where(replica: Replica) -> None:
    await applied(replica, snapshot())
    version = replica.engine.describe().version
    completions = await mid_generation(replica, snapshot(shaken(2)))
    assert [len(completion.token_ids) for completion in completions] == [450] * 8
    for completion in completions:
        old, new = completion.spans
        assert (old.version, old.begin, new.version, new.end) == (version, 0, version + 1, 450)
        assert 0 < old.end == new.begin < 450


async def test_after_an_update_logprobs_are_the_new_versions_over_the_whole_prefix(replica: Replica) -> None:
    """The key-value cache is computed again: no token comes from a mixture of two versions."""
    await applied(replica, snapshot())
    completion, *_ = await mid_generation(replica, snapshot(shaken(3)))
    change = completion.spans[1].begin
    (new,) = await replica.score([whole(completion)])
    await applied(replica, snapshot())
    (old,) = await replica.score([whole(completion)])
    new, old = new[len(PROMPT) - 1 :], old[len(PROMPT) - 1 :]
    np.testing.assert_allclose(completion.logprobs[change:], new[change:], atol=5e-3)
    np.testing.assert_allclose(completion.logprobs[:change], old[:change], atol=5e-3)
    assert np.abs(new - old).mean() > 0.05, "the two versions cannot be told apart"


async def test_with_policy_finish_running_sequences_end_with_the_version_they_began_with(replica: Replica) -> None:
    engine = replica.engine
    settings = engine._settings
    engine._settings = settings.model_copy(update={"vllm": settings.vllm.model_copy(update={"update": "finish"})})
    try:
        version = engine.describe().version
        begun = replica.sample("ais_rollout_generated_tokens_total")
        early = asyncio.create_task(collect(engine, request(samples=4, new_tokens=300)))
        await until(lambda: replica.sample("ais_rollout_generated_tokens_total") > begun)
        push = asyncio.create_task(applied(replica, snapshot(shaken(4))))
        await until(lambda: not engine._admitting.is_set())
        late = asyncio.create_task(collect(engine, request(samples=4)))
        assert {span.version for one in await early for span in one.spans} == {version}
        await push
        assert {span.version for one in await late for span in one.spans} == {version + 1}
    finally:
        engine._settings = settings


def not_a_number(tensors: Tensors) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"][3, 3] = torch.nan


def another_architecture(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith("model.layers.1.")]:
        del tensors[name]


def another_shape(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = torch.zeros(30, 64, dtype=torch.bfloat16)


def overflowing(tensors: Tensors) -> None:
    """Finite weights that compute NaN: found by the probe alone."""
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 3e38)


@pytest.mark.parametrize("wrong", [not_a_number, another_architecture, another_shape, overflowing])
async def test_a_wrong_payload_is_refused_and_generation_goes_on(
    replica: Replica, wrong: Callable[[Tensors], None]
) -> None:
    await refused(replica, snapshot(wrong))


async def test_a_truncated_payload_is_refused(replica: Replica) -> None:
    await refused(replica, snapshot()[:-1000])


async def test_weights_whose_logprobs_are_not_the_trainers_are_refused_with_the_measured_gap(replica: Replica) -> None:
    """The probe says what the trainer's own policy gives; the payload is another policy."""
    trainers = Probe((SEQUENCE,), (tuple(min(one, 0.0) for one in (await demo_scores(replica)).tolist()),))
    (serving,) = await replica.score([SEQUENCE])
    refusal = await refused(replica, snapshot(shaken(5, share=1.0), probe=trainers))
    (again,) = await replica.score([SEQUENCE])
    assert (serving == again).all()
    assert refusal.field == "probe"
    assert refusal.probe_gap is not None
    assert refusal.probe_gap > 0.5


async def test_weights_that_agree_with_the_trainers_probe_are_served_and_the_gap_is_told(replica: Replica) -> None:
    """Scored by transformers in BF16, as a trainer would: FP8's own error is within what its precision is allowed."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([SEQUENCE])).logits[0].float(), -1)
    trainers = logprobs[:-1].gather(1, torch.tensor(SEQUENCE[1:])[:, None]).squeeze(1)
    status = await applied(replica, snapshot(probe=Probe((SEQUENCE,), (tuple(trainers.tolist()),))))
    assert status.probe_gap is not None
    assert 0.0 < status.probe_gap < 0.5


async def demo_scores(replica: Replica) -> np.ndarray:
    await applied(replica, snapshot())
    (scores,) = await replica.score([SEQUENCE])
    return scores


async def refused(replica: Replica, payload: bytes) -> WeightsRefused:
    """Pushes in mid-generation; the old version must go on serving, and every sample must come through it."""
    version = replica.engine.describe().version
    begun = replica.sample("ais_rollout_generated_tokens_total")
    samples = asyncio.create_task(collect(replica.engine, request(samples=4, new_tokens=300)))
    await until(lambda: replica.sample("ais_rollout_generated_tokens_total") > begun)
    answer = await replica.push(payload)
    assert answer.status_code == 422, answer.text
    assert replica.engine.describe().version == version
    for completion in await samples:
        assert {span.version for span in completion.spans} == {version}
        assert len(completion.token_ids) == 300
    return WeightsRefused.model_validate(answer.json())


async def test_nothing_is_kept_of_versions_that_do_not_serve(replica: Replica) -> None:
    await applied(replica, snapshot(shaken(6)))
    version = replica.engine.describe().version
    kept = [file.name for file in replica.engine._weights.serving.files]
    assert kept == [f"version-{version}.safetensors"]
    assert list(load_file(replica.engine._weights.serving.files[0])) != []
    assert len(list(replica.engine._weights.serving.files[0].parent.iterdir())) == 1
