"""Programs that play episodes by OpenAI's API, against a real FP8 replica."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ais.collector.episodes.answering import answers
from ais.collector.episodes.call import Answers
from ais.collector.exercise import Ending, open_exercise
from ais.collector.prompts.prompts import Split
from ais.collector.replicas.generation import GenerationError
from ais.collector.settings import CollectorProcessSettings
from ais.runtime.process import UnavailableError
from ais.runtime.reading import read_settings
from tests.support.tiny_models import until
from tests.support.turns.replica import EXAMPLES, Replica, rescoring, served
from tests.support.turns.stage import EXAMPLE, GUESSING, call, exercise, program


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    async with served(GUESSING) as replica:
        yield replica


async def played(does: str, replica: Replica, endings: list[Any] | None = None, **environment: Any) -> Answers:
    async with exercise({"name": "harness", "command": program(does)} | environment, endings) as made:
        return await answers(made, made.prompt(0), replica.client, call(1))


async def test_programs_on_openais_client_play_a_group_token_for_token(replica: Replica) -> None:
    settings = read_settings(CollectorProcessSettings, EXAMPLE / "config.toml", [], whole=False)
    async with open_exercise(settings, Split.TRAIN) as made:
        prompt = made.prompt(0)
        found = await answers(made, prompt, replica.client, call(2))
        text = made.tokenizer.tokenizer.decode
    assert text(found.prompt_token_ids) == "^00-31;"
    for trajectory, reward in zip(found.trajectories, found.judged.rewards, strict=True):
        assert [text(turn.context_token_ids) in ("+", "-", "*") for turn in trajectory.turns[1:]] == [True] * (
            len(trajectory.turns) - 1
        )
        last = text(trajectory.token_ids[-trajectory.turns[-1].tokens :])
        assert reward == float(last == f"{int(prompt.answer):02}$")
        again = rescoring(found.prompt_token_ids, trajectory, GUESSING)
        assert np.abs(again - trajectory.behaviour_logprobs).max() < 0.05


async def test_a_program_on_openais_client_plays_the_episode_that_the_environment_plays(replica: Replica) -> None:
    """To the bit, one at a time: who else is in a batch changes the last bits."""
    found = []
    for example in ("openai_client", "guess_number"):
        settings = read_settings(CollectorProcessSettings, EXAMPLES / example / "config.toml", [], whole=False)
        async with open_exercise(settings, Split.TRAIN) as made:
            found.append(await answers(made, made.prompt(2), replica.client, call(1)))
    for one in found:
        assert one.prompt_token_ids == found[0].prompt_token_ids
        assert one.judged.rewards == found[0].judged.rewards
        (trajectory,), (first,) = one.trajectories, found[0].trajectories
        assert len(trajectory.turns) > 1
        assert [turn.seed for turn in trajectory.turns] == [turn.seed for turn in first.turns]
        np.testing.assert_array_equal(trajectory.text_token_ids, first.text_token_ids)
        np.testing.assert_array_equal(trajectory.behaviour_logprobs, first.behaviour_logprobs)


async def test_the_verifiers_of_the_source_may_judge_the_last_turn(replica: Replica) -> None:
    found = await played("ask()", replica, judged_by="verifiers")
    assert [one.name for one in found.judged.components] == ["exact_match", "turns"]


@pytest.mark.parametrize(
    ("does", "outcome", "why"),
    [
        ("ask(); print('no luck'); sys.exit(3)", "died", "exit code 3: no luck"),
        ("ask()", "no_reward", "without a reward"),
    ],
)
async def test_a_program_that_fails_after_a_turn_is_one_failure_worth_0(
    does: str, outcome: str, why: str, replica: Replica
) -> None:
    endings: list[tuple[Ending, int, int]] = []
    found = await played(does, replica, endings)
    episode, _ = found.judged.components
    assert (found.judged.rewards, endings) == ((0.0,), [("failed", 1, 0)])
    assert [one.outcome for one in episode.failures] == [outcome]
    assert why in episode.failures[0].text


async def test_when_a_replica_is_lost_its_programs_are_ended_and_the_group_starts_again(
    replica: Replica, tmp_path: Path
) -> None:
    file = tmp_path / "pid"
    does = f"open({str(file)!r}, 'w').write(str(os.getpid()))\ntry: ask()\nexcept OSError: time.sleep(600)"
    replica.client.abandon("the replica is gone")
    with pytest.raises(GenerationError, match="the replica is gone"):
        await played(does, replica)
    await until(lambda: not psutil.pid_exists(int(file.read_text())))


async def test_what_a_program_leaves_running_is_ended_with_it(replica: Replica, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    does = (
        "left = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"open({str(file)!r}, 'w').write(str(left.pid))\nask()\ncall('/end', {{'reward': 0.5}})"
    )
    assert (await played(does, replica)).judged.rewards == (0.5,)
    assert not psutil.pid_exists(int(file.read_text()))


async def test_programs_without_a_command_a_directory_or_a_chat_template_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="there is no program 'no-such-program'"):
        async with exercise({"command": ["no-such-program"]}):
            pass
    with pytest.raises(UnavailableError, match="there is no directory"):
        async with exercise({"command": ["python"], "directory": tmp_path / "gone"}):
            pass
    with pytest.raises(UnavailableError, match="needs a chat template"):
        async with exercise({"command": ["python"]}, chat_template=None):
            pass
