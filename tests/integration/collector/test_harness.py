"""Programs that play episodes by OpenAI's API, against a real FP8 replica."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
import torch

from ais.collector.episodes.answering import answers
from ais.collector.episodes.call import Answers, Call
from ais.collector.episodes.recording import Recording, main_branch
from ais.collector.episodes.table import Table
from ais.collector.exercise import Ending, Exercise, open_exercise
from ais.collector.judging.harness.endpoint import Endpoint, open_endpoint
from ais.collector.judging.harness.programs import run_program
from ais.collector.judging.judge import UnjudgedError
from ais.collector.prompts.prompts import Split
from ais.collector.replicas.generation import GenerationError
from ais.collector.settings import CollectorProcessSettings
from ais.contracts.sampling import SamplingParameters
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.rollout.engines.torch_engine.probe import score
from ais.rollout.engines.torch_engine.weights import read_tensors, rounded_weights
from ais.runtime.process import UnavailableError
from ais.runtime.reading import read_settings
from tests.support.tiny_models import until
from tests.support.turns.replica import EXAMPLES, FP8, VOCABULARY, Replica, served

EXAMPLE = EXAMPLES / "openai_client"
POLICY = EXAMPLES / "guess_number" / "model"
ASK = """
import json, os, sys, time, subprocess, urllib.request
episode = json.loads(sys.stdin.readline())
def call(path, body):
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + path, json.dumps(body).encode(), {
        "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))
def ask(): call("/chat/completions", {"messages": [{"role": "user", "content": episode["text"]}]})
"""


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    async with served(POLICY) as replica:
        yield replica


@asynccontextmanager
async def exercise(
    environment: Mapping[str, Any], endings: list[tuple[Ending, int, int]] | None = None, **prompt: Any
) -> AsyncIterator[Exercise]:
    told = [] if endings is None else endings
    template = {"chat_template": EXAMPLE / "template.jinja"} | prompt
    task = {"name": "guess_number", "environment": {"name": "harness"} | environment}
    settings = CollectorProcessSettings.model_validate(
        {
            "run": {"model": POLICY},
            "rollout": {"max_model_len": 256},
            "collector": {"task": task, "prompt": template, "judging": {"workers": 1}},
        }
    )
    async with open_exercise(settings, Split.TRAIN, observe_episode=lambda *one: told.append(one)) as opened:
        yield opened


def call(samples: int) -> Call:
    return Call("group", samples, SamplingParameters(max_new_tokens=4, seed=11), VOCABULARY, 600.0)


def program(does: str) -> tuple[str, ...]:
    return (sys.executable, "-c", ASK + does)


async def played(does: str, replica: Replica, endings: list[Any] | None = None, **environment: Any) -> Answers:
    async with exercise({"command": program(does)} | environment, endings) as made:
        return await answers(made, made.prompt(0), replica.client, call(1))


# Whole episodes.


async def test_programs_on_openais_client_play_a_group_token_for_token(replica: Replica) -> None:
    settings = read_settings(CollectorProcessSettings, EXAMPLE / "config.toml", [], whole=False)
    async with open_exercise(settings, Split.TRAIN) as made:
        prompt = made.prompt(0)
        found = await answers(made, prompt, replica.client, call(2))
        text = made.tokenizer.tokenizer.decode
    assert text(found.prompt_token_ids) == "^00-31;"
    architecture = read_architecture(POLICY)
    tensors = read_tensors(snapshot_files(POLICY), architecture)
    weights = rounded_weights(tensors, architecture, FP8, torch.device("cpu"))
    for trajectory, reward in zip(found.trajectories, found.judged.rewards, strict=True):
        assert [text(turn.context_token_ids) in ("+", "-", "*") for turn in trajectory.turns[1:]] == [True] * (
            len(trajectory.turns) - 1
        )
        last = text(trajectory.token_ids[-trajectory.turns[-1].tokens :])
        assert reward == float(last == f"{int(prompt.answer):02}$")
        whole = [*found.prompt_token_ids, *trajectory.text_token_ids.tolist()]
        (rescored,) = score(weights, architecture, FP8, [whole])
        again = np.array(rescored)[len(found.prompt_token_ids) - 1 :][trajectory.sampled]
        assert np.abs(again - trajectory.behaviour_logprobs).max() < 0.05


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


@pytest.mark.parametrize(
    ("does", "limit", "why"),
    [
        ("sys.exit(3)", {}, "exit code 3"),
        ("time.sleep(600)", {"seconds": 0.2}, "longer than environment.seconds = 0.2 s"),
    ],
)
async def test_a_program_that_asks_nothing_has_its_group_again(
    does: str, limit: dict[str, float], why: str, replica: Replica
) -> None:
    with pytest.raises(UnjudgedError, match=why):
        await played(does, replica, **limit)


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


async def test_a_program_whose_directory_has_gone_is_a_failure_and_ends_no_collector(tmp_path: Path) -> None:
    failure = await run_program(("true",), tmp_path / "gone", {}, b"", None)
    assert failure is not None
    assert "cannot be started" in failure.reason


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


# Single calls, made from here.


@dataclass
class Stage:
    """An endpoint, and an episode at it."""

    endpoint: Endpoint
    address: str
    table: Table
    recording: Recording
    url: str
    key: str

    def client(self, key: str = "", url: str = "") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=url or self.url, api_key=key or self.key, max_retries=0)


@pytest.fixture
async def stage(replica: Replica) -> AsyncIterator[Stage]:
    async with exercise({"command": ["python"], "turns": 4}) as made, open_endpoint() as (endpoint, address):
        prompt = made.prompt(0)
        harness = made.harness(prompt)
        assert harness is not None
        table = Table(made, harness.settings, prompt, replica.client, call(1))
        recording = Recording(table, 0)
        with endpoint.episode(recording) as (path, key):
            yield Stage(endpoint, address, table, recording, f"{address}{path}", key)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def say(stage: Stage, *messages: Any, **fields: Any) -> Any:
    async with stage.client() as client:
        return await client.chat.completions.create(model="any", messages=list(messages), **fields)


async def test_a_call_that_goes_on_continues_its_branch_and_any_other_begins_one(stage: Stage) -> None:
    first = await say(stage, user("00-31;"))
    said = first.choices[0].message
    second = await say(stage, user("00-31;"), said.model_dump(), user("+"))
    assert second.usage.prompt_tokens == first.usage.total_tokens + 1
    await say(stage, user("00-31;"), {"role": "assistant", "content": "99"}, user("+"))
    main, other = stage.recording.branches
    assert [len(turn.context) for turn in main.turns] == [0, 1]
    assert len(other.turns) == 1
    assert main_branch(stage.recording.branches, main.prompt_token_ids) is main
    assert main_branch(stage.recording.branches, [1]) is None


async def test_calls_at_once_that_go_on_from_one_turn_do_not_share_a_branch(stage: Stage) -> None:
    said = (await say(stage, user("00-31;"))).choices[0].message.model_dump()
    await asyncio.gather(*(say(stage, user("00-31;"), said, user("+")) for _ in range(2)))
    assert sorted(len(branch.turns) for branch in stage.recording.branches) == [1, 2]


async def test_max_tokens_shortens_an_answer(stage: Stage) -> None:
    answer = await say(stage, user("00-31;"), max_tokens=1, temperature=0.1)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 1)
    assert stage.recording.branches[0].turns[0].response.sampling.temperature == 1.0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"stream": True}, "stream"),
        ({"stop": ["+"]}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [user("letters")]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None),
    ],
)
async def test_what_cannot_be_answered_is_refused_in_the_apis_words(
    fields: dict[str, Any], param: str | None, stage: Stage
) -> None:
    asked: dict[str, Any] = {"model": "policy", "messages": [user("00-31;")]} | fields
    async with stage.client() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**asked)
    assert refused.value.type == "invalid_request_error"
    assert param is None or refused.value.param == param
    assert not any(branch.turns for branch in stage.recording.branches)


async def test_another_key_another_episodes_key_and_no_episode_are_refused_alike(stage: Stage) -> None:
    with stage.endpoint.episode(Recording(stage.table, 1)) as (_, other):
        for key, url in (("wrong", ""), (other, ""), (stage.key, f"{stage.address}/episodes/none/v1")):
            async with stage.client(key, url) as client:
                with pytest.raises(openai.AuthenticationError) as refused:
                    await client.models.list()
            assert refused.value.code == "invalid_api_key"
    async with stage.client() as client:
        assert [model.id async for model in client.models.list()] == ["policy"]


async def test_bodies_that_are_huge_or_no_json_and_unknown_paths_are_refused(stage: Stage) -> None:
    headers = {"Authorization": f"Bearer {stage.key}"}
    async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=None) as client:
        huge = await client.post(f"{stage.url}/chat/completions", content=b" " * 5_000_000)
        broken = await client.post(f"{stage.url}/chat/completions", content=b"{")
        unknown = await client.post(f"{stage.url}/embeddings", json={})
        endless = await client.post(f"{stage.url}/end", content=b'{"reward": 1e999}')
    assert [one.status_code for one in (huge, broken, unknown, endless)] == [413, 400, 404, 400]
    for answer in (huge, broken, unknown, endless):
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_after_the_end_and_beyond_a_budget_calls_are_refused(stage: Stage) -> None:
    for _ in range(4):
        await say(stage, user("00-31;"))
    with pytest.raises(openai.BadRequestError) as refused:
        await say(stage, user("00-31;"))
    assert (refused.value.code, stage.recording.budget) == ("episode_budget_exceeded", "turns")
    async with stage.client() as client:
        await client.post("/end", body={"reward": 0.25}, cast_to=object)
        for path, body in (("/end", {"reward": 1.0}), ("/chat/completions", {"messages": [user("00-31;")]})):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.post(path, body=body, cast_to=object)
            assert refused.value.code == "episode_over"
    assert stage.recording.reward == 0.25
    assert len(stage.recording.branches) == 4  # what is refused takes no memory


async def test_a_replica_that_is_lost_breaks_the_episode(stage: Stage) -> None:
    stage.table.client.abandon("the replica is gone")
    with pytest.raises(openai.InternalServerError):
        await say(stage, user("00-31;"))
    with pytest.raises(GenerationError, match="the replica is gone"):
        await stage.recording.broken
