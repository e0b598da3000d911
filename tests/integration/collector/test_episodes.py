"""Episodes with a real FP8 replica and environments in real worker processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import torch

from ais.collector.environments.protocol import PolicyTurn, Prompt
from ais.collector.episodes.answering import answers
from ais.collector.episodes.call import Answers, Call
from ais.collector.exercise import Ending, Exercise, open_exercise
from ais.collector.judging.judge import UnjudgedError
from ais.collector.prompts.prompts import Split
from ais.collector.replicas.generation import Cause, GenerationError
from ais.collector.settings import CollectorProcessSettings
from ais.collector.tasks.calculations import call_of
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import ScoredGroup, TrajectoryBounds, decode_group, encode_group
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.rollout.engines.torch_engine.probe import score
from ais.rollout.engines.torch_engine.weights import read_tensors, rounded_weights
from ais.runtime.process import UnavailableError
from ais.runtime.reading import read_settings
from tests.support.turns.replica import EXAMPLES, FP8, POLICY, VOCABULARY, Replica, served
from tests.support.turns.talking import call, exercise, talker


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    async with served() as replica:
        yield replica


async def played(exercise: Exercise, replica: Replica, asked: Call | None = None) -> Answers:
    return await answers(exercise, exercise.prompt(0), replica.client, asked or call())


async def test_the_log_probs_of_every_turn_are_those_of_the_whole_token_sequence(replica: Replica) -> None:
    async with exercise(talker(last=4)) as made:
        found = await played(made, replica)
    architecture = read_architecture(POLICY)
    weights = rounded_weights(
        read_tensors(snapshot_files(POLICY), architecture), architecture, FP8, torch.device("cpu")
    )
    for trajectory in found.trajectories:
        assert len(trajectory.turns) == 4
        whole = [*found.prompt_token_ids, *trajectory.text_token_ids.tolist()]
        (rescored,) = score(weights, architecture, FP8, [whole])
        again = np.array(rescored)[len(found.prompt_token_ids) - 1 :][trajectory.sampled]
        # Products of another height add in another order, which BF16 and FP8 make visible.
        assert np.abs(again - trajectory.behaviour_logprobs).max() < 0.2
        assert np.abs(again - trajectory.behaviour_logprobs).mean() < 0.01


async def test_an_episode_is_prompt_and_turns_with_the_environments_words_between_and_one_reward(
    replica: Replica,
) -> None:
    endings: list[tuple[Ending, int, int]] = []
    async with exercise(talker(last=3), endings) as made:
        found = await played(made, replica)
    equals = made.tokenizer.encode_piece("=")
    for trajectory in found.trajectories:
        assert [turn.context_token_ids.tolist() for turn in trajectory.turns] == [[], equals, equals * 2]
    assert found.judged.rewards == (1.5, 1.5)
    assert [(one.name, one.weight, one.scores) for one in found.judged.components] == [
        ("episode", 1.0, (1.5, 1.5)),
        ("turns", 0.0, (3.0, 3.0)),
    ]
    assert endings == [("done", 3, 0)] * 2


async def test_an_episode_is_the_same_when_it_is_sampled_again(replica: Replica) -> None:
    """One at a time: who else is in a batch changes the last bits."""
    async with exercise(talker()) as made:
        first, again = [(await played(made, replica, call(samples=1))).trajectories[0] for _ in range(2)]
    np.testing.assert_array_equal(first.text_token_ids, again.text_token_ids)
    np.testing.assert_array_equal(first.behaviour_logprobs, again.behaviour_logprobs)


async def test_the_turns_of_a_group_have_seeds_of_their_own(replica: Replica) -> None:
    async with exercise(talker()) as made:
        found, again = [await played(made, replica) for _ in range(2)]
    seeds = [turn.seed for trajectory in found.trajectories for turn in trajectory.turns]
    assert seeds == [turn.seed for trajectory in again.trajectories for turn in trajectory.turns]
    assert len(set(seeds)) == 6
    assert found.trajectories[0].token_ids.tolist() != found.trajectories[1].token_ids.tolist()


async def test_episodes_go_through_the_queues_border_as_they_are(replica: Replica) -> None:
    async with exercise(talker()) as made:
        found = await played(made, replica)
    group = ScoredGroup(
        "group", 0, "p", np.array(found.prompt_token_ids, np.int32), found.trajectories, found.judged.rewards, "t", 1
    )
    decoded = decode_group(encode_group(group), TrajectoryBounds(VOCABULARY, 0))
    for left, right in zip(found.trajectories, decoded.trajectories, strict=True):
        np.testing.assert_array_equal(left.text_token_ids, right.text_token_ids)


@pytest.mark.parametrize(
    ("budget", "ending"), [({"turns": 2}, "turns"), ({"tokens": 1}, "tokens"), ({"seconds": 0.001}, "seconds")]
)
async def test_a_budget_that_is_used_up_ends_an_episode(
    budget: dict[str, Any], ending: Ending, replica: Replica
) -> None:
    endings: list[tuple[Ending, int, int]] = []
    async with exercise(talker() | budget, endings) as made:
        found = await played(made, replica)
    turns = budget.get("turns", 1)
    assert endings == [(ending, turns, 0)] * 2
    assert found.judged.rewards == (turns * 0.5,) * 2


async def test_a_context_that_is_full_ends_an_episode(replica: Replica) -> None:
    endings: list[tuple[Ending, int, int]] = []
    async with exercise(talker(turns=100, last=100), endings) as made:
        await played(made, replica, call(samples=1))
    assert [ending for ending, _, _ in endings] == ["context"]


@pytest.mark.parametrize(("misdeed", "why"), [("error", "a broken tool"), ("rich", "sum to within")])
async def test_a_step_that_fails_ends_the_episode_at_0_with_its_reason(
    misdeed: str, why: str, replica: Replica
) -> None:
    endings: list[tuple[Ending, int, int]] = []
    judged: list[tuple[str, str]] = []
    async with exercise(talker(misdeed=misdeed), endings, judged) as made:
        judged.clear()  # of what was tried
        found = await played(made, replica)
    assert endings == [("failed", 2, 0)] * 2
    assert Counter(judged) == {("episode", "judged"): 3, ("episode", "error"): 2}
    (episode, turns) = found.judged.components
    assert found.judged.rewards == (0.0, 0.0)
    assert turns.scores == (2.0, 2.0)
    assert [(one.index, one.outcome) for one in episode.failures] == [(0, "error"), (1, "error")]
    assert why in episode.failures[0].text


async def test_a_step_that_never_ends_is_stopped_and_the_next_one_answered(replica: Replica) -> None:
    async with exercise(talker(misdeed="endless"), seconds=5.0) as made:
        found = await played(made, replica, call(samples=1))
        assert found.judged.components[0].failures[0].outcome == "overtime"
        assert (await played(made, replica, call(samples=1))).trajectories


async def test_a_step_that_fails_has_the_group_again_where_that_is_asked_for(replica: Replica) -> None:
    with pytest.raises(UnavailableError, match="does not work"):
        async with exercise(talker(misdeed="error"), on_failure="again"):
            pass  # it fails when it is tried
    async with exercise(talker(misdeed="error", turns=2), on_failure="again") as made:
        with pytest.raises(UnjudgedError, match="a broken tool"):
            await played(made, replica)


async def test_an_environment_that_begins_nothing_is_refused_before_anything_is_sampled() -> None:
    with pytest.raises(UnavailableError, match="nothing begins"):
        async with exercise(talker(misdeed="no beginning")):
            pass


async def test_what_a_tool_says_is_tried_before_anything_is_sampled() -> None:
    with pytest.raises(UnavailableError, match="error: TypeError"):
        async with exercise({"name": "calculator"}):
            pass


async def test_an_environment_that_answers_no_turn_is_refused_before_anything_is_sampled() -> None:
    with pytest.raises(UnavailableError, match="answers no turn: .*never says anything"):
        async with exercise(talker(misdeed="silent")):
            pass


async def test_a_deadline_holds_while_the_environment_thinks(replica: Replica) -> None:
    async with exercise(talker(misdeed="endless"), seconds=60.0) as made:
        with pytest.raises(GenerationError) as failed:
            await played(made, replica, call(samples=1, deadline_seconds=3.0))
    assert failed.value.cause is Cause.BUSY


async def test_words_that_have_no_tokens_have_the_group_again(replica: Replica) -> None:
    async with exercise(talker(misdeed="foreign")) as made:
        with pytest.raises(UnjudgedError, match="cannot be written in tokens"):
            await played(made, replica, call(samples=1))


async def test_a_group_that_is_not_over_by_its_deadline_starts_again(replica: Replica) -> None:
    async with exercise(talker()) as made:
        with pytest.raises(GenerationError) as failed:
            await played(made, replica, call(deadline_seconds=0.0))
    assert failed.value.cause is Cause.BUSY


async def test_the_example_of_the_calculator_calls_it_and_tells_what_it_hears() -> None:
    config = EXAMPLES / "calculator" / "config.toml"
    settings = read_settings(CollectorProcessSettings, config, [], whole=False)
    asked = call(8, sampling=SamplingParameters(max_new_tokens=16, seed=11), vocab_size=100)
    async with open_exercise(settings, Split.TRAIN) as made, served(config.parent / "model") as replica:
        prompt = made.prompt(0)
        found = await answers(made, prompt, replica.client, asked)
        text = made.tokenizer.tokenizer.decode
    right = f"{call_of(prompt.text.rstrip('='))}${prompt.answer}={prompt.answer}$"
    written = [text(trajectory.text_token_ids) for trajectory in found.trajectories]
    assert text(found.prompt_token_ids) == f"^{prompt.text}"
    assert 0 < written.count(right) < 8, written
    assert [reward for said, reward in zip(written, found.judged.rewards, strict=True) if said == right] == [
        1.0
    ] * written.count(right)
    assert max(len(trajectory.turns) for trajectory in found.trajectories) >= 2


async def test_feedback_is_given_until_the_verifier_is_content(replica: Replica) -> None:
    retry = {"name": "retry", "feedback": "+", "turns": 3}
    async with exercise(retry | {"enough": 1.0}) as made:
        asked = await played(made, replica, call(samples=1))
    assert len(asked.trajectories[0].turns) == 3  # six digits and no end are never the answer
    assert asked.judged.rewards == (0.0,)
    async with exercise(retry | {"enough": 0.0}) as made:
        content = await played(made, replica, call(samples=1))
    assert len(content.trajectories[0].turns) == 1
    assert [one.name for one in content.judged.components] == ["exact_match", "turns"]


@pytest.mark.parametrize(
    ("most", "turn_before", "holds"), [(0, 0, False), (0, 2, False), (1, 0, True), (None, 0, True)]
)
async def test_versions_that_are_too_far_apart_start_the_group_again(
    most: int | None, turn_before: int, holds: bool, replica: Replica
) -> None:
    swapped = asyncio.Event()
    endings: list[tuple[Ending, int, int]] = []
    environment = talker(last=4) | ({} if most is None else {"max_versions_apart": most})
    async with exercise(environment, endings) as made:
        host = made.hosts["sort6"]

        class Between:
            """Has the replica take a new version while the environment thinks about a turn: the last but one, too."""

            settings = host.settings
            begin = host.begin

            async def answer(self, place: Any, prompt: Prompt, turn: PolicyTurn) -> Any:
                if turn.number == turn_before and not swapped.is_set():
                    swapped.set()
                    await replica.engine.swap_weights(1, "blake3:one", [POLICY / "model.safetensors"])
                return await host.answer(place, prompt, turn)

        made.hosts["sort6"] = Between()  # type: ignore[index]
        asked = call(samples=1, is_trained_on=True)
        if not holds:
            with pytest.raises(GenerationError) as failed:
                await played(made, replica, asked)
            assert failed.value.cause is Cause.SPREAD
            return
        (trajectory,) = (await played(made, replica, asked)).trajectories
    assert [span.version for span in trajectory.spans] == [0, 1]
    assert trajectory.version_span == 1
    assert endings[-1] == ("done", 4, 1)
