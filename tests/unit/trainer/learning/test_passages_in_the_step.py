"""Episodes whose turns begin anew in the trainer's step: each sampled token is trained once, behind what it was sampled
after, and weights, lengths and normalisers are those of the whole episode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ais.contracts.trajectory import MalformedRecordError, ScoredGroup, Trajectory
from ais.runtime.settings import RunSettings
from ais.trainer.groups.intake import Intake
from ais.trainer.learning.batch import prepare
from ais.trainer.learning.probe import probe_sequences
from ais.trainer.policy.microbatch import Microbatch, Sample, cut
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.settings import TrainerSettings
from tests.support.turns.episodes import episode_of
from tests.unit.trainer.learning.test_objectives_in_the_step import (
    UNCORRECTED,
    gradients_of,
    learner_of,
    model,  # noqa: F401  # the fixture
)

Shape = Sequence[tuple[int, int]]
PROMPT = np.array([1, 4, 5, 15], dtype=np.int32)
SHAPES: list[tuple[Shape, set[int]]] = [
    ([(1, 3)], set()),
    ([(1, 4), (6, 2)], {1}),
    ([(1, 1), (9, 5), (1, 3), (8, 2)], {1, 3}),
    ([(1, 2), (3, 1), (5, 4)], {1, 2}),
]


def group_of(ordinal: int, shapes: Sequence[tuple[Shape, set[int]]] = tuple(SHAPES)) -> ScoredGroup:
    return ScoredGroup(
        group_id=f"group-{ordinal}",
        ordinal=ordinal,
        prompt_id=f"prompt-{ordinal}",
        prompt_token_ids=PROMPT[: 2 + ordinal % 3],
        trajectories=tuple(
            episode_of(shape, ordinal * 10 + place, anew, group_id=f"group-{ordinal}", sample_index=place)
            for place, (shape, anew) in enumerate(shapes)
        ),
        rewards=tuple(float((ordinal + place) % 3 == 0) for place in range(len(shapes))),
        task="test",
        attempt=1,
    )


GROUPS = [group_of(ordinal) for ordinal in range(4)]
SAMPLES = [Sample(group.prompt_token_ids, one) for group in GROUPS for one in group.trajectories]


def sampled_after(sample: Sample) -> list[tuple[list[int], int]]:
    """Each sampled token and what stood before it, as the turns tell it."""
    read, found, begin = sample.prompt_token_ids.tolist(), [], 0
    for turn in sample.trajectory.turns:
        read = [*([] if turn.begins_anew else read), *turn.context_token_ids.tolist()]
        for token in sample.trajectory.token_ids[begin : begin + turn.tokens].tolist():
            found.append(([*read], token))
            read.append(token)
        begin += turn.tokens
    return found


def trained_after(microbatches: Iterable[Microbatch]) -> dict[int, list[tuple[list[int], int]]]:
    """The same of each sequence as the model reads it."""
    found: dict[int, list[tuple[list[int], int]]] = {}
    for one in microbatches:
        places = zip(one.rows, one.input_rows, one.columns, one.targets.tolist(), strict=True)
        for row, input_row, column, target in places:
            read = one.input_ids[input_row, : column + 1].tolist()
            found.setdefault(int(one.sequences[row]), []).append((read, target))
    return found


turns = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5)


@settings(deadline=None)
@given(st.lists(st.tuples(turns, st.sets(st.integers(1, 4))), min_size=1, max_size=5), st.integers(1, 200))
def test_each_sampled_token_is_trained_once_behind_what_it_was_sampled_after(
    shapes: list[tuple[Shape, set[int]]], budget: int
) -> None:
    samples = [Sample(PROMPT, one) for one in group_of(0, shapes).trajectories]
    microbatches = cut(samples, budget)
    assert trained_after(microbatches) == {place: sampled_after(one) for place, one in enumerate(samples)}
    for one in microbatches:
        assert one.input_ids.numel() <= budget or len(one.sequences) == 1


def with_other_words(trajectory: Trajectory) -> Trajectory:
    """The same sampled tokens, told something else between turns."""
    return replace(
        trajectory,
        turns=tuple(
            replace(turn, context_token_ids=((turn.context_token_ids + 1) % 10 + 3).astype(np.int32))
            for turn in trajectory.turns
        ),
    )


def going_on(trajectory: Trajectory) -> Trajectory:
    """The same tokens, read as one sequence."""
    return replace(trajectory, turns=tuple(replace(turn, begins_anew=False) for turn in trajectory.turns))


@pytest.mark.parametrize(
    ("change", "read"), [(with_other_words, {"input_ids"}), (going_on, {"input_ids", "input_rows", "columns"})]
)
def test_what_is_read_before_a_turn_changes_no_weight_length_or_advantages_place(
    change: Callable[[Trajectory], Trajectory], read: set[str]
) -> None:
    microbatches = cut(SAMPLES, 1), cut([replace(one, trajectory=change(one.trajectory)) for one in SAMPLES], 1)
    ours, others = ({int(one.sequences): one for one in found} for found in microbatches)
    assert ours.keys() == others.keys() == set(range(len(SAMPLES)))
    for number, one in ours.items():
        for name in set(Microbatch.__dataclass_fields__) - read:
            left, right = getattr(one, name), getattr(others[number], name)
            assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, name


def scored_alone(policy: Policy, sample: Sample) -> torch.Tensor:
    """Log-probs of the sampled tokens, each passage by a pass of its own."""
    found = []
    for passage in sample.passages:
        whole = torch.from_numpy(np.concatenate([passage.prompt_token_ids, passage.text_token_ids]).astype(np.int64))
        logits = policy.model(input_ids=whole[None, :-1], use_cache=False).logits[0].float()
        logprobs = logits.log_softmax(-1).gather(1, whole[1:, None])[:, 0]
        found.append(logprobs[len(passage.prompt_token_ids) - 1 :][torch.from_numpy(passage.sampled)])
    return torch.cat(found)


def test_log_probs_and_gradient_are_those_of_each_passage_scored_alone(model: Path) -> None:  # noqa: F811
    objective = {"name": "policy_gradient", "aggregation": "sequence_mean"}
    (found,) = gradients_of(learner_of(model, objective, correction=UNCORRECTED), GROUPS)
    policy = Policy.load(model, "cpu", compute_dtype=torch.float32)
    alone = [scored_alone(policy, sample) for sample in SAMPLES]
    (microbatch,) = cut(SAMPLES, 10_000)
    scored = policy.score(microbatch).logprobs
    torch.testing.assert_close(scored, torch.cat([alone[one] for one in microbatch.sequences.tolist()]))
    advantages = prepare(GROUPS, 0, TrainerSettings(), Ranks(torch.device("cpu"))).advantages
    means = [-advantage * one.mean() for advantage, one in zip(advantages, alone, strict=True)]
    torch.stack(means).mean().backward()  # type: ignore[no-untyped-call]
    expected = torch.cat([one.grad.flatten() for one in policy.model.parameters() if one.grad is not None])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "gspo", "aggregation": "sequence_mean"},
        {"reference": {"policy": "start", "coefficient": 1.0}, "entropy_coefficient": 0.1, "updates_per_batch": 2},
        {"reference": {"policy": "average", "place": "reward", "coefficient": 1.0}, "aggregation": "constant_length"},
    ],
    ids=str,
)
def test_the_cut_into_microbatches_changes_no_gradient(objective: dict[str, object], model: Path) -> None:  # noqa: F811
    def of(tokens: int) -> Sequence[torch.Tensor]:
        return gradients_of(learner_of(model, dict(objective), tokens), GROUPS)

    for whole, pieces in zip(of(10_000), of(1), strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_long_episode_is_read_in_pieces_that_the_budget_holds(checkpointing: bool, model: Path) -> None:  # noqa: F811
    (microbatch,) = cut(SAMPLES[2:3], 10_000)
    width = microbatch.input_ids.shape[1]
    found, read = [], []
    for budget in (None, width, 2 * width):
        policy = Policy.load(model, "cpu", compute_dtype=torch.float32)
        policy.scoring.tokens_at_once = budget
        if checkpointing:
            policy.scoring.checkpoint_activations()
        rows: list[int] = []
        policy.model.get_input_embeddings().register_forward_pre_hook(
            lambda _, ids, rows=rows: rows.append(len(ids[0]))
        )
        scores = policy.score(microbatch)
        read.append(list(rows))
        scores.logprobs.sum().backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat([one.grad.flatten() for one in policy.model.parameters() if one.grad is not None])
        found.append((scores.logprobs.detach(), gradient))
    assert read == [[3], [1, 1, 1], [2, 1]]
    for logprobs, gradient in found[1:]:
        torch.testing.assert_close(logprobs, found[0][0])
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-3, atol=1e-5)


def test_the_context_length_bounds_each_passage_and_not_all_together() -> None:
    (long,) = (sample for sample in SAMPLES[:4] if len(sample.passages) == 3 and len(sample.trajectory.turns) == 4)
    longest = max(map(len, long.passages))
    assert longest < len(long.prompt_token_ids) + len(long.trajectory.text_token_ids)
    with pytest.raises(MalformedRecordError, match=f"have {longest} tokens, the model's context {longest - 1}"):
        checked(long, longest - 1)
    checked(long, longest)


def checked(sample: Sample, context_length: int) -> None:
    intake = Intake(RunSettings(groups_per_batch=1), 100, context_length, version=0)
    intake._check_trajectory(sample.trajectory, sample.prompt_token_ids, "trajectory")


def test_a_probe_is_taken_of_what_the_policy_has_read() -> None:
    trajectory = episode_of([(1, 2), (4, 3)], anew={1}, group_id="group-0")
    group = replace(GROUPS[0], trajectories=(trajectory,), rewards=(1.0,))
    expected = (*group.prompt_token_ids.tolist(), *trajectory.token_ids[:2].tolist())
    assert probe_sequences([group], 4, 100) == (expected,)
