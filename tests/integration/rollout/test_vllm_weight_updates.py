"""New weights in a live vLLM engine, over the real control API: applied whole, or refused with nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save

from ais.contracts.weights.offer import WeightsStatus
from ais.contracts.weights.probe import Probe
from ais.contracts.weights.refusal import WeightsRefused
from ais.rollout.engine import Completion
from tests.support.replicas.vllm_replica import (
    PROMPT,
    SORT16,
    Tensors,
    VllmReplica,
    collect,
    demo_snapshot,
    request,
    shaken,
    until,
    whole,
)

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
]  # the first one starts vLLM

SEQUENCE = (*PROMPT, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 2)


async def applied(vllm_replica: VllmReplica, payload: bytes) -> WeightsStatus:
    answer = await vllm_replica.push(payload)
    assert answer.status_code == 200, answer.text
    return WeightsStatus.model_validate(answer.json())


async def test_going_to_other_weights_and_back_restores_logprobs_to_the_bit(vllm_replica: VllmReplica) -> None:
    await applied(vllm_replica, demo_snapshot())
    (before,) = await vllm_replica.score([SEQUENCE])
    await applied(vllm_replica, demo_snapshot(shaken(1)))
    (other,) = await vllm_replica.score([SEQUENCE])
    await applied(vllm_replica, demo_snapshot())
    (after,) = await vllm_replica.score([SEQUENCE])
    assert (before == after).all()
    assert np.abs(other - before).mean() > 0.01


async def test_a_version_of_several_shards_is_loaded_whole(vllm_replica: VllmReplica) -> None:
    await applied(vllm_replica, demo_snapshot(shaken(7)))
    (one_file,) = await vllm_replica.score([SEQUENCE])
    await applied(vllm_replica, demo_snapshot())
    tensors = load(demo_snapshot(shaken(7)))
    names = sorted(tensors)
    shards = [save({name: tensors[name] for name in half}) for half in (names[::2], names[1::2])]
    answer = await vllm_replica.push(*shards)
    assert answer.status_code == 200, answer.text
    (sharded,) = await vllm_replica.score([SEQUENCE])
    assert (one_file == sharded).all()


async def mid_generation(vllm_replica: VllmReplica, payload: bytes) -> list[Completion]:
    """Responses of which `payload` was pushed in the middle; one that ended before it is left out."""
    samples = asyncio.create_task(collect(vllm_replica.engine, request(samples=8, new_tokens=450)))
    begun = vllm_replica.sample("ais_rollout_generated_tokens_total")
    await until(lambda: vllm_replica.sample("ais_rollout_generated_tokens_total") > begun + 200)
    await applied(vllm_replica, payload)
    changed = [completion for completion in await samples if len(completion.spans) > 1]
    assert len(changed) >= 4, "the update came too late to show anything"
    return changed


async def test_running_sequences_go_on_with_the_new_version_and_spans_say_from_where(vllm_replica: VllmReplica) -> None:
    await applied(vllm_replica, demo_snapshot())
    version = vllm_replica.engine.describe().version
    completions = await mid_generation(vllm_replica, demo_snapshot(shaken(2)))
    for completion in completions:
        old, new = completion.spans
        assert (old.version, old.begin, new.version, new.end) == (version, 0, version + 1, len(completion.token_ids))
        assert 0 < old.end == new.begin < new.end


async def test_after_an_update_logprobs_are_the_new_versions_over_the_whole_prefix(vllm_replica: VllmReplica) -> None:
    """The key-value cache is computed again: no token comes from a mixture of two versions."""
    await applied(vllm_replica, demo_snapshot())
    completion, *_ = await mid_generation(vllm_replica, demo_snapshot(shaken(3, share=0.3)))
    change = completion.spans[1].begin
    (new,) = await vllm_replica.score([whole(completion)])
    await applied(vllm_replica, demo_snapshot())
    (old,) = await vllm_replica.score([whole(completion)])
    new, old = new[len(PROMPT) - 1 :], old[len(PROMPT) - 1 :]
    np.testing.assert_allclose(completion.logprobs[change:], new[change:], atol=5e-3)
    np.testing.assert_allclose(completion.logprobs[:change], old[:change], atol=5e-3)
    assert np.abs(new - old).mean() > 0.05, "the two versions cannot be told apart"


async def test_with_policy_finish_running_sequences_end_with_the_version_they_began_with(
    vllm_replica: VllmReplica,
) -> None:
    engine = vllm_replica.engine
    settings = engine._settings
    engine._settings = settings.model_copy(update={"vllm": settings.vllm.model_copy(update={"update": "finish"})})
    try:
        version = engine.describe().version
        begun = vllm_replica.sample("ais_rollout_generated_tokens_total")
        early = asyncio.create_task(collect(engine, request(samples=4, new_tokens=300)))
        await until(lambda: vllm_replica.sample("ais_rollout_generated_tokens_total") > begun)
        push = asyncio.create_task(applied(vllm_replica, demo_snapshot(shaken(4))))
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
    vllm_replica: VllmReplica, wrong: Callable[[Tensors], None]
) -> None:
    await refused(vllm_replica, demo_snapshot(wrong))


async def test_a_truncated_payload_is_refused(vllm_replica: VllmReplica) -> None:
    await refused(vllm_replica, demo_snapshot()[:-1000])


async def test_weights_whose_logprobs_are_not_the_trainers_are_refused_with_the_measured_gap(
    vllm_replica: VllmReplica,
) -> None:
    """The probe says what the trainer's own policy gives; the payload is another policy."""
    trainers = Probe((SEQUENCE,), (tuple(min(one, 0.0) for one in (await demo_scores(vllm_replica)).tolist()),))
    (serving,) = await vllm_replica.score([SEQUENCE])
    refusal = await refused(vllm_replica, demo_snapshot(shaken(5, share=1.0), probe=trainers))
    (again,) = await vllm_replica.score([SEQUENCE])
    assert (serving == again).all()
    assert refusal.field == "probe"
    assert refusal.probe_gap is not None
    assert refusal.probe_gap > 0.5


async def test_weights_that_agree_with_the_trainers_probe_are_served_and_the_gap_is_told(
    vllm_replica: VllmReplica,
) -> None:
    """Scored by transformers in BF16, as a trainer would: FP8's own error is within what its precision is allowed."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(SORT16, dtype=torch.bfloat16)
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([SEQUENCE])).logits[0].float(), -1)
    trainers = logprobs[:-1].gather(1, torch.tensor(SEQUENCE[1:])[:, None]).squeeze(1)
    status = await applied(vllm_replica, demo_snapshot(probe=Probe((SEQUENCE,), (tuple(trainers.tolist()),))))
    assert status.probe_gap is not None
    assert 0.0 < status.probe_gap < 0.5


async def demo_scores(vllm_replica: VllmReplica) -> np.ndarray:
    await applied(vllm_replica, demo_snapshot())
    (scores,) = await vllm_replica.score([SEQUENCE])
    return scores


async def refused(vllm_replica: VllmReplica, payload: bytes) -> WeightsRefused:
    """Pushes in mid-generation; the old version must go on serving, and every sample must come through it."""
    version = vllm_replica.engine.describe().version
    begun = vllm_replica.sample("ais_rollout_generated_tokens_total")
    samples = asyncio.create_task(collect(vllm_replica.engine, request(samples=4, new_tokens=300)))
    await until(lambda: vllm_replica.sample("ais_rollout_generated_tokens_total") > begun)
    answer = await vllm_replica.push(payload)
    assert answer.status_code == 422, answer.text
    assert vllm_replica.engine.describe().version == version
    assert [completion.index for completion in await samples] == list(range(4))
    for completion in await samples:
        assert {span.version for span in completion.spans} == {version}
    return WeightsRefused.model_validate(answer.json())


async def test_nothing_is_kept_of_versions_that_do_not_serve(vllm_replica: VllmReplica) -> None:
    await applied(vllm_replica, demo_snapshot(shaken(6)))
    version = vllm_replica.engine.describe().version
    (kept,) = [file.name for file in vllm_replica.engine._weights.serving.files]
    assert kept.startswith(f"version-{version}-")
    assert list(load_file(vllm_replica.engine._weights.serving.files[0])) != []
    assert len(list(vllm_replica.engine._weights.serving.files[0].parent.glob("*.safetensors"))) == 1
