"""Episodes of several turns in the trainer's step: what is read, what is predicted, and what counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ais.contracts.trajectory import ScoredGroup, Trajectory
from ais.contracts.turns import Turn
from ais.trainer.learning.batch import prepare
from ais.trainer.policy.microbatch import Microbatch, Sample, cut
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.settings import TrainerSettings
from tests.support.turns.episodes import DIGITS, episode_of
from tests.unit.trainer.learning.test_objectives_in_the_step import (
    UNCORRECTED,
    gradients_of,
    learner_of,
    model,  # noqa: F401  # the fixture
)

SHAPES = [(1, 1)], [(1, 4), (3, 2)], [(1, 1), (2, 5), (1, 3)], [(1, 2), (6, 1)]


def group_of(ordinal: int) -> ScoredGroup:
    random = np.random.default_rng(ordinal)
    group_id = f"group-{ordinal}"
    return ScoredGroup(
        group_id=group_id,
        ordinal=ordinal,
        prompt_id=f"prompt-{ordinal}",
        prompt_token_ids=np.concatenate([[1], random.choice(DIGITS, 2 + ordinal), [15]]).astype(np.int32),
        trajectories=tuple(
            episode_of(shape, ordinal * 10 + place, group_id=group_id, sample_index=place)
            for place, shape in enumerate(SHAPES)
        ),
        rewards=tuple(float((ordinal + place) % 3 == 0) for place in range(len(SHAPES))),
        task="test",
        attempt=1,
    )


GROUPS = [group_of(ordinal) for ordinal in range(4)]
SAMPLES = [Sample(group.prompt_token_ids, one) for group in GROUPS for one in group.trajectories]


def test_each_sampled_token_is_predicted_from_all_before_it_and_context_is_only_read() -> None:
    (microbatch,) = cut(SAMPLES, 10_000)
    begin = 0
    for row, (index, length) in enumerate(zip(microbatch.sequences.tolist(), microbatch.lengths.tolist(), strict=True)):
        sample, tokens = SAMPLES[index], slice(begin, begin + length)
        text = [*sample.prompt_token_ids.tolist(), *sample.trajectory.text_token_ids.tolist()]
        columns = microbatch.columns[tokens].tolist()
        assert microbatch.rows[tokens].unique().tolist() == [row]
        assert microbatch.input_ids[row, : len(text) - 1].tolist() == text[:-1]
        assert microbatch.targets[tokens].tolist() == sample.trajectory.token_ids.tolist()
        assert [text[column + 1] for column in columns] == sample.trajectory.token_ids.tolist()
        prompt = len(sample.prompt_token_ids)
        assert [column + 1 - prompt for column in columns] == np.flatnonzero(sample.trajectory.sampled).tolist()
        begin += length


def with_other_words(trajectory: Trajectory) -> Trajectory:
    """The same sampled tokens, told something else between turns."""
    turns: list[Turn] = [
        replace(turn, context_token_ids=((turn.context_token_ids + 1) % 10 + 3).astype(np.int32))
        for turn in trajectory.turns
    ]
    return replace(trajectory, turns=tuple(turns))


def test_the_words_between_turns_change_what_is_read_and_nothing_else() -> None:
    (ours,) = cut(SAMPLES, 10_000)
    (others,) = cut([replace(one, trajectory=with_other_words(one.trajectory)) for one in SAMPLES], 10_000)
    for name in Microbatch.__dataclass_fields__:
        left, right = getattr(ours, name), getattr(others, name)
        if isinstance(left, torch.Tensor):
            assert torch.equal(left, right) == (name != "input_ids"), name


def test_normalisers_and_lengths_count_sampled_tokens_alone() -> None:
    batch = prepare(GROUPS, 0, TrainerSettings(), Ranks(torch.device("cpu")))
    sampled = sum(tokens for shape in SHAPES for _, tokens in shape) * len(GROUPS)
    assert batch.tokens == sampled
    assert [update.normaliser.tokens for update in batch.updates] == [sampled]
    assert sum(int(one.lengths.sum()) for one in batch.microbatches) == sampled


def test_the_gradient_is_that_of_the_loss_written_out_token_by_token(model: Path) -> None:  # noqa: F811
    objective = {"name": "policy_gradient", "aggregation": "token_mean"}
    (found,) = gradients_of(learner_of(model, objective, correction=UNCORRECTED), GROUPS)
    policy = Policy.load(model, "cpu", compute_dtype=torch.float32)
    advantages = prepare(GROUPS, 0, TrainerSettings(), Ranks(torch.device("cpu"))).advantages
    loss = torch.zeros(())
    for sample, advantage in zip(SAMPLES, advantages, strict=True):
        text = np.concatenate([sample.prompt_token_ids, sample.trajectory.text_token_ids]).astype(np.int64)
        logits = policy.model(input_ids=torch.from_numpy(text[None, :-1]), use_cache=False).logits[0].float()
        logprobs = logits.log_softmax(-1).gather(1, torch.from_numpy(text[1:, None]))[:, 0]
        loss = loss - advantage * logprobs[len(sample.prompt_token_ids) - 1 :][sample.trajectory.sampled].sum()
    (loss / sum(len(sample.trajectory.token_ids) for sample in SAMPLES)).backward()  # type: ignore[no-untyped-call]
    expected = torch.cat([one.grad.flatten() for one in policy.model.parameters() if one.grad is not None])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"name": "gspo", "aggregation": "sequence_mean"},
        {"aggregation": "constant_length", "updates_per_batch": 2},
    ],
    ids=str,
)
def test_the_cut_into_microbatches_changes_no_gradient_of_episodes(objective: dict[str, object], model: Path) -> None:  # noqa: F811
    def of(tokens: int) -> Sequence[torch.Tensor]:
        return gradients_of(learner_of(model, dict(objective), tokens), GROUPS)

    for whole, pieces in zip(of(10_000), of(1), strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-3, atol=1e-5)
