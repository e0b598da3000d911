"""Tokens that no policy sampled (tool output, a user's words between turns) count nowhere: whatever stands in their
places, every weight, sum and diagnostic is that of the sampled tokens alone."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torch import Tensor

import ais_core
from ais_core import CorrectionSettings, SequenceBatch
from tests.unit.ais_core.enumerable import make_policies, make_world
from tests.unit.ais_core.test_corrections import EVERY, make, packed

Turns = list[tuple[int, int]]
"""An episode: context tokens and sampled tokens, turn by turn."""

episodes = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=4), min_size=1, max_size=6)
contents = st.sampled_from([0.0, -50.0, 1e30, float("nan"), float("inf")])


def laid_out(shape: list[Turns], logs: list[Tensor], content: float) -> tuple[Tensor, Tensor, Tensor]:
    """Flat log-ratios with `content` in the context's places, which of them are sampled, and each episode's length."""
    values, masks, lengths = [], [], []
    for turns, sampled in zip(shape, logs, strict=True):
        begin = 0
        for context, tokens in turns:
            values += [torch.full((context,), content), sampled[begin : begin + tokens]]
            masks += [torch.zeros(context, dtype=torch.bool), torch.ones(tokens, dtype=torch.bool)]
            begin += tokens
        lengths.append(sum(context + tokens for context, tokens in turns))
    none = torch.zeros(0)
    return torch.cat([*values, none]), torch.cat([*masks, none.bool()]), torch.tensor(lengths)


@pytest.mark.parametrize("settings", EVERY, ids=lambda one: f"{one.method}-{one.level}-{one.over}")
@limits(max_examples=30)
@given(shape=episodes, content=contents, seed=st.integers(0, 20))
def test_what_stands_in_a_contexts_place_changes_no_diagnostic_no_plan_and_no_weight(
    settings: CorrectionSettings, shape: list[Turns], content: float, seed: int
) -> None:
    logs, advantages = make([sum(tokens for _, tokens in turns) for turns in shape], 0.2, seed)
    values, mask, lengths = laid_out(shape, logs, content)
    batch, alone = SequenceBatch.packed(values, lengths, mask=mask), packed(logs)
    correction = ais_core.build(settings)
    sums = correction.measure(batch, advantages)
    assert torch.equal(sums, correction.measure(alone, advantages))
    assert batch.lengths == alone.lengths
    plan, _ = correction.plan(sums, None)  # diagnostics are a function of the sums
    weights = correction.weights(batch, advantages, plan)
    assert torch.equal(weights[mask], correction.weights(alone, advantages, plan))
    assert not weights[~mask].any()


@pytest.mark.parametrize("level", ["prefix", "sequence"])
def test_the_weighted_gradient_over_episodes_is_exact_in_a_world_that_can_be_summed_over(level: str) -> None:
    """After its first and its third token an episode is told something that follows from what it wrote. The exact
    weights give the gradient of the mean reward of the policy that trains, the context's places counting as ratio 1."""
    world = make_world(3)
    trained, sampler = make_policies(3, mismatch=0.3)
    proximal, behaviour = world.log_probs(trained), world.log_probs(sampler)
    chance = torch.stack([one.sum().exp() for one in behaviour]).detach()
    (exact,) = torch.autograd.grad(
        sum(one.sum().exp() * reward for one, reward in zip(proximal, world.reward, strict=True)), trained
    )
    proximal = world.log_probs(trained)
    shape = [
        [(0, 1), *([(2, min(2, len(one) - 1))] if len(one) > 1 else []), *([(1, len(one) - 3)] if len(one) > 3 else [])]
        for one in world.sequences
    ]
    logs = [(ours - theirs).detach().float() for ours, theirs in zip(proximal, behaviour, strict=True)]
    values, mask, lengths = laid_out(shape, logs, content=float("nan"))
    batch = SequenceBatch.packed(values, lengths, mask=mask)
    correction = ais_core.build(CorrectionSettings(method="tis", level=level, cap=1e6))  # type: ignore[arg-type]
    plan, _ = correction.plan(correction.measure(batch), None)
    weights = correction.weights(batch, world.reward, plan)[mask].double().split([len(one) for one in logs])
    loss = sum(
        p * reward * (weight * ours).sum()
        for p, reward, weight, ours in zip(chance, world.reward, weights, proximal, strict=True)
    )
    (found,) = torch.autograd.grad(loss, trained)
    if level == "sequence":
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)
    else:  # exact per token: the reward that follows is weighted by what comes before it alone
        expected = sum(
            p * reward * torch.stack(list(itertools.accumulate(log.double().exp(), torch.mul))).mul(ours).sum()
            for p, reward, log, ours in zip(chance, world.reward, logs, world.log_probs(trained), strict=True)
        )
        torch.testing.assert_close(found, torch.autograd.grad(expected, trained)[0], rtol=1e-5, atol=1e-6)
