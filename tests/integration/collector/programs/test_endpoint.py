"""Single calls of OpenAI's API at the endpoint of an episode, by the real client, against a real FP8 replica."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from ais.collector.episodes import recording
from ais.collector.episodes.recording import MOST_AT_ONCE, Recording, main_branch
from ais.collector.prompts.tokenizer import PolicyTokenizer
from ais.collector.replicas.generation import Cause, GenerationError
from ais.contracts.sampling import SamplingParameters
from tests.support.tiny_models import until
from tests.support.turns.replica import Replica, rescoring, served
from tests.support.turns.stage import GUESSING, Scripted, Stage, staged, user

GUESS = (4, 5, 2)
"""12 and the end of a turn."""


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    async with served(GUESSING) as replica:
        yield replica


@pytest.fixture
async def stage(replica: Replica) -> AsyncIterator[Stage]:
    async with staged(replica.client) as stage:
        yield stage


async def test_a_call_that_goes_on_continues_its_branch_and_any_other_begins_one(stage: Stage) -> None:
    first = await stage.say(user("00-31;"))
    said = first.choices[0].message
    second = await stage.say(user("00-31;"), said.model_dump(), user("+"))
    assert second.usage.prompt_tokens == first.usage.total_tokens + 1
    await stage.say(user("00-31;"), {"role": "assistant", "content": "99"}, user("+"))
    main, other = stage.recording.branches
    assert [len(turn.context) for turn in main.turns] == [0, 1]
    assert len(other.turns) == 1
    assert main_branch(stage.recording.branches, main.prompt_token_ids) is main
    assert main_branch(stage.recording.branches, [1]) is None


async def test_calls_at_once_that_go_on_from_one_turn_do_not_share_a_branch(stage: Stage) -> None:
    said = (await stage.say(user("00-31;"))).choices[0].message.model_dump()
    await asyncio.gather(*(stage.say(user("00-31;"), said, user("+")) for _ in range(2)))
    assert sorted(len(branch.turns) for branch in stage.recording.branches) == [1, 2]


async def test_max_tokens_shortens_an_answer(stage: Stage) -> None:
    answer = await stage.say(user("00-31;"), max_tokens=1, temperature=0.1)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 1)
    assert stage.recording.branches[0].turns[0].response.sampling.temperature == 1.0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"stop": ["$"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
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
        await stage.say(user("00-31;"))
    with pytest.raises(openai.BadRequestError) as refused:
        await stage.say(user("00-31;"))
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
        await stage.say(user("00-31;"))
    with pytest.raises(GenerationError, match="the replica is gone"):
        await stage.recording.broken


async def test_what_is_told_and_recorded_of_each_kind_of_call_is_what_a_rescoring_finds(stage: Stage) -> None:
    first = (await stage.say(user("00-31;"), logprobs=True, top_logprobs=0)).choices[0]
    history = [user("00-31;"), first.message.model_dump(), user("+")]
    async with stage.client() as client:
        stream = await client.chat.completions.create(model="any", messages=history, logprobs=True, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    second = "".join(chunk.delta.content or "" for chunk in chunks)
    history += [{"role": "assistant", "content": second}, user("-")]
    third = (await stage.say(*history, stop=["0", "1", "2", "3"], logprobs=True)).choices[0]
    told = [one.logprob for one in first.logprobs.content]
    told += [one.logprob for chunk in chunks if chunk.logprobs for one in chunk.logprobs.content]
    told += [one.logprob for one in third.logprobs.content]
    (branch,) = stage.recording.branches
    trajectory = stage.table.ended(0, branch.turns, "done")
    assert told == trajectory.behaviour_logprobs.tolist()
    rescored = rescoring(branch.prompt_token_ids, trajectory, GUESSING)
    assert np.abs(rescored - trajectory.behaviour_logprobs).max() < 0.05


LONG = SamplingParameters(max_new_tokens=240, seed=5, stop_token_ids=(0,))


@pytest.mark.parametrize("stops", [[], ["77", "4"]], ids=str)
async def test_a_stream_says_what_is_recorded_and_begins_before_all_is_sampled(
    stops: list[str], replica: Replica
) -> None:
    async with staged(replica.client, sampling=LONG) as stage, stage.client() as client:
        stream = await client.chat.completions.create(
            model="any", messages=[user("00-31;")], stream=True, logprobs=True, stop=stops
        )
        chunks, asking = [], []
        async for chunk in stream:
            asking.append(stage.recording.is_asking)
            chunks.append(chunk.choices[0])
        assert any(asking)
        (turn,) = stage.recording.branches[0].turns
        whole = stage.table.exercise.tokenizer.decode_response(turn.response.token_ids.tolist())
        ends = [place for stop in stops if (place := whole.find(stop)) >= 0]
        assert "".join(one.delta.content or "" for one in chunks) == whole[: min(ends, default=len(whole))]
        told = [one.logprob for chunk in chunks if chunk.logprobs for one in chunk.logprobs.content]
        assert told == turn.response.behaviour_logprobs.tolist()


async def test_a_client_that_leaves_a_stream_frees_the_replica() -> None:
    longer = LONG.model_copy(update={"max_new_tokens": 2000})
    async with (
        served(GUESSING, positions=2048) as replica,
        staged(replica.client, sampling=longer) as stage,
        stage.client() as client,
    ):
        async with await client.chat.completions.create(model="any", messages=[user("00-31;")], stream=True) as stream:
            await anext(aiter(stream))
            assert replica.engine.load().running_sequences == 1
        await until(lambda: not stage.recording.is_asking and not replica.client.calls)
        await until(lambda: replica.engine.load().running_sequences == 0)
        assert stage.recording.branches == []


# Where the policy is a scripted one.


async def test_a_client_that_leaves_in_mid_call_has_no_turn_and_its_sampling_is_cancelled() -> None:
    policy = Scripted(GUESS)
    policy.may.clear()
    async with staged(policy) as stage:
        async with stage.client(timeout=0.5) as client:
            with pytest.raises(openai.APITimeoutError):
                await client.chat.completions.create(model="any", messages=[user("00-31;")])
        assert len(policy.prompts) == 1
        await until(lambda: policy.asked == 0)
        policy.may.set()
        await stage.say(user("00-31;"))
        assert [len(branch.turns) for branch in stage.recording.branches] == [1]


async def test_calls_under_way_are_cancelled_when_their_episode_ends() -> None:
    policy = Scripted(GUESS)
    policy.may.clear()
    async with staged(policy) as stage:
        asked = asyncio.create_task(stage.say(user("00-31;")))
        await until(lambda: policy.asked == 1)
        async with stage.client() as client:
            await client.post("/end", body={"reward": 0.25}, cast_to=object)
        with pytest.raises(openai.BadRequestError) as refused:
            await asked
        assert (refused.value.code, policy.asked, stage.recording.branches) == ("episode_over", 0, [])


async def test_what_a_replica_refuses_or_has_no_tokens_is_the_programs_affair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = Scripted(GUESS)
    async with staged(policy) as stage:
        said = (await stage.say(user("00-31;"))).choices[0].message.model_dump()
        with pytest.raises(openai.BadRequestError, match="have no tokens"):
            await stage.say(user("00-31;"), said, user(""))
        monkeypatch.setattr(policy, "generate", _refuses)
        with pytest.raises(openai.BadRequestError, match="the replica refuses: too long"):
            await stage.say(user("00-31;"))
        assert not stage.recording.broken.done()
        assert [len(branch.turns) for branch in stage.recording.branches] == [1]


async def _refuses(*_: Any, **__: Any) -> Any:
    raise GenerationError("invalid_argument", "too long", Cause.REFUSED)


async def test_long_messages_are_turned_into_tokens_while_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let = threading.Event()
    async with staged(Scripted(GUESS)) as stage, stage.client() as client:
        encode = PolicyTokenizer.encode_piece
        monkeypatch.setattr(recording, "QUICK", 5)
        monkeypatch.setattr(PolicyTokenizer, "encode_piece", lambda *piece: let.wait(60) and encode(*piece))
        asked = asyncio.create_task(stage.say(user("00-31;")))
        assert [model.id async for model in client.models.list()] == ["policy"]
        let.set()
        assert (await asked).choices[0].message.content == "12"


async def test_of_a_thousand_open_streams_most_are_refused_and_another_episode_is_answered() -> None:
    policy = Scripted(GUESS)
    policy.may.clear()
    async with staged(policy, turns=4096) as stage:
        url, body = httpx.URL(stage.url), b'{"messages": [{"role": "user", "content": "00-31;"}], "stream": true}'
        head = f"Host: any\r\nConnection: close\r\nAuthorization: Bearer {stage.key}\r\nContent-Length: {len(body)}"
        request = f"POST {url.path}/chat/completions HTTP/1.1\r\n{head}\r\n\r\n".encode() + body

        async def ask() -> bytes:
            """All that is answered; nothing where the connection is closed without a word."""
            reader, writer = await asyncio.open_connection(url.host, url.port)
            try:
                writer.write(request)
                return await reader.read()
            except ConnectionError:
                return b""
            finally:
                writer.close()

        asked = [asyncio.create_task(ask()) for _ in range(1000)]
        pending = set(asked)
        while len(pending) > MOST_AT_ONCE:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        told = [one.result() for one in asked if one.done()]
        refused = [json.loads(one.partition(b"\r\n\r\n")[2])["error"] for one in told if one]
        assert {(one["type"], one["code"]) for one in refused} == {("rate_limit_error", "rate_limit_exceeded")}
        with stage.endpoint.episode(Recording(stage.table, 1)) as (path, key):
            async with stage.client(key, f"{stage.address}{path}") as other:
                assert [model.id async for model in other.models.list()] == ["policy"]
        policy.may.set()
        assert [b"data: [DONE]" in one for one in await asyncio.gather(*asked)].count(True) == MOST_AT_ONCE
