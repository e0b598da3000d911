"""A prompt that is read once for all its responses teaches what it does when each has a copy of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import MistralConfig, Qwen3Config

from ais.contracts.trajectory import ScoredGroup, Trajectory
from ais.contracts.truncation.kept import KeptTokens
from ais.runtime.process import UnavailableError
from ais.settings import Settings
from ais.trainer.learning.batch import prepare
from ais.trainer.policy.microbatch import Microbatch
from ais.trainer.policy.policy import Policy
from ais.trainer.policy.shared_prompts import pairs_per_token
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.settings import TrainerSettings
from benchmarks.models.families import FAMILIES, write_family
from tests.support.trainer_groups import make_group
from tests.unit.trainer.learning.test_objectives_in_the_step import (
    gradients_of,
    learner_of,
    model,  # noqa: F401  # the fixture
)
from tests.unit.trainer.learning.test_passages_in_the_step import group_of

RANKS = Ranks(torch.device("cpu"))
WINDOWED = {"Gemma 3", "GPT-OSS", "Mistral", "OLMo 3", "Qwen3.5"}
"""Families some or all of whose layers see a window, or attend in another way; of Mistral those with a window."""
DEAR = 10**9
"""Pairs that a token is worth where every prompt is to be read once."""


def with_prompt(group: ScoredGroup, length: int) -> ScoredGroup:
    """Another prompt, of so many tokens, in the place of the group's."""
    prompt = np.random.default_rng(group.ordinal).integers(3, 13, length).astype(np.int32)
    return replace(group, prompt_token_ids=prompt)


GROUPS = [with_prompt(make_group(ordinal, lengths=(2, 10)), 20 + 3 * ordinal) for ordinal in range(4)]
EPISODES = [with_prompt(group_of(ordinal), 12) for ordinal in range(3)]
"""Episodes have several turns, and those that begin anew have prompts of their own."""


def truncated(trajectory: Trajectory) -> Trajectory:
    """As if two other tokens had been left beside each sampled one."""
    others = [np.array([3, 4], dtype=np.int32) for _ in trajectory.token_ids]
    return replace(trajectory, kept=KeptTokens.of(others))


def microbatches(groups: Sequence[ScoredGroup], tokens: int, worth: int | None) -> list[Microbatch]:
    compute = {"tokens_per_microbatch": tokens}
    found = prepare(groups, 0, TrainerSettings.model_validate({"compute": compute}), RANKS, worth)
    return [one for update in found.updates for one in update.microbatches]


def logprobs_of(policy: Policy, parts: Sequence[Microbatch]) -> dict[int, list[float]]:
    """By sequence."""
    found: dict[int, list[float]] = {}
    for part in parts:
        with torch.no_grad():
            scores = policy.score(part).logprobs.tolist()
        for row, score in zip(part.rows.tolist(), scores, strict=True):
            found.setdefault(int(part.sequences[row]), []).append(score)
    return found


@pytest.mark.parametrize("groups", [GROUPS, EPISODES, [*GROUPS, *EPISODES]], ids=["responses", "episodes", "both"])
@settings(deadline=None, max_examples=6)
@given(tokens=st.integers(20, 4000))
def test_log_probs_are_those_of_separate_rows_however_the_batch_is_cut(
    groups: list[ScoredGroup],
    model: Path,  # noqa: F811
    tokens: int,
) -> None:
    policy = Policy.load(model, "cpu", compute_dtype=torch.float32)
    expected = logprobs_of(policy, microbatches(groups, 100_000, None))
    shared = microbatches(groups, tokens, DEAR)
    assert all(one.input_ids.numel() <= tokens or len(one.sequences) == 1 for one in shared)
    found = logprobs_of(policy, shared)
    assert found.keys() == expected.keys()
    for sequence, scores in expected.items():
        np.testing.assert_allclose(found[sequence], scores, atol=2e-5)


def test_in_bf16_log_probs_differ_by_roundings_alone(model: Path) -> None:  # noqa: F811
    policy = Policy.load(model, "cpu")
    expected = logprobs_of(policy, microbatches(GROUPS, 100_000, None))
    found = logprobs_of(policy, microbatches(GROUPS, 100_000, DEAR))
    differences = [
        abs(a - b) for sequence in expected for a, b in zip(found[sequence], expected[sequence], strict=True)
    ]
    assert float(np.mean(differences)) < 1e-3


def test_with_room_for_all_there_is_a_row_for_each_prompt_and_each_is_read_once() -> None:
    (shared,) = microbatches(GROUPS, 100_000, DEAR)
    assert shared.layout is not None
    assert len(shared.input_ids) == len(GROUPS)
    read = sum(len(one.token_ids) - 1 for group in GROUPS for one in group.trajectories)
    prompts = sum(len(group.prompt_token_ids) for group in GROUPS)
    assert int((shared.layout.segments >= 0).sum()) == read + prompts


OBJECTIVES: list[dict[str, Any]] = [
    {},
    {"updates_per_batch": 2, "entropy_coefficient": 0.1, "reference": {"policy": "start", "coefficient": 1.0}},
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["plain", "reference"])
@pytest.mark.parametrize("tokens", [100_000, 100])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_are_those_of_separate_rows(
    objective: dict[str, Any],
    tokens: int,
    checkpointed: bool,
    model: Path,  # noqa: F811
) -> None:
    groups = [*GROUPS, *EPISODES]
    expected = gradients_of(learner_of(model, objective), groups)
    learner = learner_of(model, objective, tokens=tokens, share_prompts=True)
    learner._pairs_per_token = DEAR
    if checkpointed:
        learner._policy.scoring.checkpoint_activations()
        learner._policy.scoring.tokens_at_once = 200
    found = gradients_of(learner, groups)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-3


def test_with_truncated_sampling_log_probs_are_those_of_separate_rows(model: Path) -> None:  # noqa: F811
    policy = Policy.load(model, "cpu", compute_dtype=torch.float32)
    kept = [replace(group, trajectories=tuple(map(truncated, group.trajectories))) for group in GROUPS]
    expected, whole = (logprobs_of(policy, microbatches(groups, 100_000, None)) for groups in (kept, GROUPS))
    found = logprobs_of(policy, microbatches(kept, 300, DEAR))
    for sequence, scores in expected.items():
        np.testing.assert_allclose(found[sequence], scores, atol=2e-5)
        assert scores != whole[sequence]


def test_where_attention_would_cost_more_than_the_prompts_rows_stay_apart() -> None:
    short = [with_prompt(make_group(ordinal, lengths=(9, 10)), 2) for ordinal in range(3)]
    (apart,) = microbatches(short, 100_000, worth=1)
    assert apart.layout is None
    assert len(apart.input_ids) == sum(len(group.trajectories) for group in short)
    (packed,) = microbatches(GROUPS, 100_000, pairs_per_token(Qwen3Config(hidden_size=64)))
    assert packed.layout is not None


def test_a_model_whose_layers_see_a_window_is_refused() -> None:
    window = Qwen3Config(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"], sliding_window=8)
    for config in (window, MistralConfig(sliding_window=8)):
        with pytest.raises(UnavailableError, match="set it to false"):
            pairs_per_token(config)


def test_recorded_routes_are_refused_with_what_to_do() -> None:
    settings = {"trainer": {"compute": {"share_prompts": True}}, "run": {"routing_replay": True}}
    with pytest.raises(ValidationError, match="run.routing_replay, to false"):
        Settings.model_validate(settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_shared_prompts_alike_or_is_refused(family: str, tmp_path: Path) -> None:
    policy = Policy.load(write_family(family, tmp_path / "model"), "cpu", compute_dtype=torch.float32)
    if family in WINDOWED:
        with pytest.raises(UnavailableError, match="full attention"):
            pairs_per_token(policy.model.config)
        return
    assert pairs_per_token(policy.model.config) > 0
    assert_alike(policy)


def test_a_mistral_without_a_window_reads_shared_prompts_alike(tmp_path: Path) -> None:
    config = write_family("Mistral", tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sliding_window": None}))
    policy = Policy.load(tmp_path, "cpu", compute_dtype=torch.float32)
    assert pairs_per_token(policy.model.config) > 0
    assert_alike(policy)


def assert_alike(policy: Policy) -> None:
    """Log-probs of shared and of separate rows."""
    expected = logprobs_of(policy, microbatches(GROUPS, 100_000, None))
    found = logprobs_of(policy, microbatches(GROUPS, 100_000, DEAR))
    for sequence, scores in expected.items():
        np.testing.assert_allclose(found[sequence], scores, atol=1e-4)
