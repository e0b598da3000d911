"""Routing replay in the trainer's forward pass: the recorded experts, weighted by the trainer's own router."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from ais.contracts.routing.routed import RoutedExperts
from ais.runtime.process import UnavailableError
from ais.trainer.policy.microbatch import OWN_CHOICE, Microbatch, Sample, cut
from ais.trainer.policy.policy import Policy
from ais.trainer.policy.routing import is_router
from benchmarks.models.families import write_family
from tests.support.records import trajectory_of
from tests.support.turns.episodes import episode_of

FAMILIES = ("Qwen3-MoE", "GPT-OSS")
PROMPT = np.array([1, 4, 5, 15], dtype=np.int32)
LAYERS, CHOSEN, EXPERTS = 2, 2, 4
RESPONSES = ([5, 6, 7, 8, 9], [11, 12], [20, 21, 22, 23, 24, 25, 26])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write_family(name, tmp_path_factory.mktemp("mixture")) for name in FAMILIES}


def routed(tokens: int, seed: int) -> RoutedExperts:
    random = np.random.default_rng(seed)
    ids = [random.permutation(EXPERTS)[:CHOSEN] for _ in range(tokens * LAYERS)]
    return RoutedExperts(np.array(ids, dtype=np.uint8).reshape(tokens, LAYERS, CHOSEN), EXPERTS)


def samples(told: bool = True) -> list[Sample]:
    """Responses of several lengths; with random experts, or none."""
    return [
        Sample(PROMPT, trajectory_of(one, routed=routed(len(PROMPT) + len(one) - 1, place) if told else None))
        for place, one in enumerate(RESPONSES)
    ]


@contextmanager
def chosen(policy: Policy) -> Iterator[list[torch.Tensor]]:
    """What the routers are left with, a pass and layer after the other."""
    found: list[torch.Tensor] = []
    hooks = [
        part.register_forward_hook(lambda _part, _inputs, output: found.append(output[2]))
        for part in policy.model.modules()
        if is_router(part)
    ]
    yield found
    for hook in hooks:
        hook.remove()


def scored(policy: Policy, microbatch: Microbatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probs, and the gradients of their sum."""
    for weight in policy.masters.values():
        weight.grad = None
    logprobs = policy.score(microbatch).logprobs
    logprobs.sum().backward()
    gradients = {name: weight.grad for name, weight in policy.masters.items() if weight.grad is not None}
    return logprobs.detach(), gradients


@pytest.mark.parametrize("family", FAMILIES)
def test_the_policys_own_choice_replayed_changes_no_bit(family: str, models: dict[str, Path]) -> None:
    policy = Policy.load(models[family], "cpu")
    (microbatch,) = cut(samples(told=False), 1000)
    with chosen(policy) as own:
        logprobs, gradients = scored(policy, microbatch)
    shape = (*microbatch.input_ids.shape, CHOSEN)
    routes = torch.stack([one.reshape(shape) for one in own], dim=2).to(torch.int16)
    policy.replay_routing()
    again, its = scored(policy, replace(microbatch, routes=routes))
    assert torch.equal(again, logprobs)
    assert its.keys() == gradients.keys()
    assert all(torch.equal(its[name], gradients[name]) for name in gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_computed_again_and_rows_read_in_pieces_replay_the_same_experts(
    family: str, models: dict[str, Path]
) -> None:
    (microbatch,) = cut(samples(), 1000)
    plain, thrifty = (Policy.load(models[family], "cpu") for _ in range(2))
    for policy in (plain, thrifty):
        policy.replay_routing()
    thrifty.scoring.checkpoint_activations()
    thrifty.scoring.tokens_at_once = microbatch.input_ids.shape[1]  # a row at a time
    logprobs, gradients = scored(plain, microbatch)
    again, its = scored(thrifty, microbatch)
    torch.testing.assert_close(again, logprobs, rtol=0, atol=0.02)
    for name, gradient in gradients.items():
        torch.testing.assert_close(its[name], gradient, rtol=0.05, atol=0.02 * float(gradient.abs().max()))


class ByHand(nn.Module):
    """A layer of Qwen3's mixture, a token after the other, by the experts it is told."""

    def __init__(self, block: Any, told: torch.Tensor) -> None:
        super().__init__()
        self.gate, self.experts, self.told = block.gate, block.experts, told

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        given = []
        for state, experts in zip(hidden.flatten(0, 1), self.told.flatten(0, 1), strict=True):
            weights = torch.softmax(self.gate.weight @ state, dim=-1)[experts]
            weights = weights / weights.sum()
            parts = []
            for expert in experts:
                gated, up = (self.experts.gate_up_proj[expert] @ state).chunk(2)
                parts.append(self.experts.down_proj[expert] @ (silu(gated) * up))
            given.append((weights[:, None] * torch.stack(parts)).sum(0))
        return torch.stack(given).reshape(hidden.shape)


def test_other_experts_replayed_are_the_model_by_hand(models: dict[str, Path]) -> None:
    policy, hand = (Policy.load(models["Qwen3-MoE"], "cpu", compute_dtype=torch.float32) for _ in range(2))
    policy.replay_routing()
    (microbatch,) = cut(samples()[:1], 1000)
    assert microbatch.routes is not None
    for place, layer in enumerate(hand.scoring.layers):
        layer.mlp = ByHand(layer.mlp, microbatch.routes[:, :, place].long())
    replayed, gradients = scored(policy, microbatch)
    expected, its = scored(hand, replace(microbatch, routes=None))
    own = Policy.load(models["Qwen3-MoE"], "cpu", compute_dtype=torch.float32).score(microbatch).logprobs
    assert (own - expected).abs().mean() > 0.1
    torch.testing.assert_close(replayed, expected, rtol=0, atol=1e-4)
    routers = [name for name in gradients if name.endswith("gate.weight")]
    assert len(routers) == LAYERS
    for name in routers:
        assert its[name].abs().max() > 1e-3
        torch.testing.assert_close(gradients[name], its[name], rtol=1e-3, atol=1e-4)


def test_experts_are_placed_passage_by_passage_and_padding_has_the_routers_choice() -> None:
    prompt = np.array([1, 2, 3], dtype=np.int32)
    episode = episode_of([(1, 3), (6, 2)], 0, {1})
    lengths = [len(one) - 1 for one in episode.passages(prompt)]
    told = routed(sum(lengths), 0)
    single = trajectory_of([5, 6], routed=routed(len(prompt) + 1, 1), precision=episode.precision)
    microbatches = cut([Sample(prompt, replace(episode, routed=told)), Sample(prompt, single)], 1000)
    (microbatch,) = [one for one in microbatches if len(one.lengths) == 2]
    assert microbatch.routes is not None
    expected = [told.expert_ids[: lengths[0]], told.expert_ids[lengths[0] :], single.routed.expert_ids]
    for row, ids in zip(microbatch.routes, sorted_as_read(microbatch, expected, lengths), strict=True):
        assert np.array_equal(row[: len(ids)], ids)
        assert (row[len(ids) :] == OWN_CHOICE).all()


def sorted_as_read(microbatch: Microbatch, parts: Sequence[np.ndarray], lengths: Sequence[int]) -> list[np.ndarray]:
    """The longer sample comes first."""
    assert microbatch.sequences.tolist() == [0, 1]
    assert max(lengths) > len(parts[-1])
    return list(parts)


def test_without_the_setting_the_routers_choose(models: dict[str, Path]) -> None:
    policy = Policy.load(models["Qwen3-MoE"], "cpu")
    (recorded,), (not_recorded,) = cut(samples(), 1000), cut(samples(told=False), 1000)
    with torch.no_grad():
        assert torch.equal(policy.score(recorded).logprobs, policy.score(not_recorded).logprobs)


def test_a_policy_without_a_router_that_is_known_is_refused(tmp_path: Path) -> None:
    policy = Policy.load(write_family("Qwen3", tmp_path), "cpu")
    with pytest.raises(UnavailableError, match=r"run\.routing_replay"):
        policy.replay_routing()
