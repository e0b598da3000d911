"""What of OpenAI's API changes how an answer is told, by the real client. The policy's answers are known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from ais.collector.episodes.recording import all_turns
from ais.collector.prompts.tokenizer import PolicyTokenizer
from ais.collector.replicas.generation import GenerationError
from ais.collector.replicas.progress import SampledTokens
from ais.contracts.sampling import FinishReason
from tests.support.tiny_models import until
from tests.support.turns.chat_templates import TEMPLATES, tokenizer_with
from tests.support.turns.stage import Scripted, Stage, staged, user

CALL = '<tool_call>\n{"name": "price", "arguments": {"of": "tea"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "price", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture
def tokenizer(tmp_path: Path) -> PolicyTokenizer:
    return tokenizer_with(TEMPLATES["tools told in turns of a user, as Hermes"], tmp_path)


@asynccontextmanager
async def says(tokenizer: PolicyTokenizer, *texts: str) -> AsyncIterator[tuple[Stage, Scripted]]:
    policy = Scripted(*(tokenizer.encode_piece(f"{text}<|end|>") for text in texts))
    async with staged(policy, lambda made: replace(made, tokenizer=tokenizer, context=None)) as stage:
        yield stage, policy


async def chunks_of(stage: Stage, *messages: Any, **fields: Any) -> list[Any]:
    async with stage.client() as client:
        stream = await client.chat.completions.create(model="any", messages=list(messages), stream=True, **fields)
        return [chunk async for chunk in stream]


async def test_a_stream_tells_what_a_whole_answer_tells_and_is_the_same_turn(tokenizer: PolicyTokenizer) -> None:
    async with says(tokenizer, "It is tea.") as (stage, _):
        chunks = await chunks_of(stage, user("What?"), logprobs=True, stream_options={"include_usage": True})
        *told, last, usage = chunks
        assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == "It is tea."
        assert (told[0].choices[0].delta.role, last.choices[0].finish_reason) == ("assistant", "stop")
        tokens = [one for chunk in told if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
        (turn,) = stage.recording.branches[0].turns
        assert [one.logprob for one in tokens] == turn.response.behaviour_logprobs.tolist()
        assert bytes(byte for one in tokens for byte in one.bytes) == b"It is tea.<|end|>"
        assert (usage.choices, usage.usage.completion_tokens) == ([], len(tokens))
        assert len({chunk.id for chunk in chunks}) == 1
        said = {"role": "assistant", "content": "It is tea."}
        await stage.say(user("What?"), said, user("And?"))
        assert [len(branch.turns) for branch in stage.recording.branches] == [2]


async def test_a_chat_goes_on_in_its_branch_and_reads_anew_what_an_unstable_template_writes(tmp_path: Path) -> None:
    thinks = tokenizer_with(TEMPLATES["earlier reasoning left out, as Qwen3"], tmp_path)
    async with says(thinks, "<think>\n?\n</think>\n\nTea.", "Yes.", "No.") as (stage, policy):
        messages: list[Any] = [user("What?")]
        for word in ("Sure?", "Really?", ""):
            messages += [(await stage.say(*messages)).choices[0].message.model_dump(), user(word)]
        (branch,) = stage.recording.branches
        assert [turn.begins_anew for turn in branch.turns] == [False, True, False]
        plain = [{"role": one["role"], "content": one["content"]} for one in messages[:3]]
        assert policy.prompts[1] == thinks.encode_piece(thinks.render(plain, then_turn=True))
        assert policy.prompts[2][: len(policy.prompts[1])] == policy.prompts[1]
        read = sum(len(turn.context) + len(turn.response.token_ids) for turn in branch.turns)
        assert branch.added == read


async def test_all_branches_are_one_trajectory_where_the_settings_say_so(tokenizer: PolicyTokenizer) -> None:
    async with says(tokenizer, "Tea.", "Cake, I say.", "Bread.") as (stage, policy):
        said = (await stage.say(user("Food?"))).choices[0].message.model_dump()
        await stage.say(user("What?"))
        await stage.say(user("Food?"), said, user("And?"))
        first, _ = branches = stage.recording.branches
        trajectory = stage.table.ended(0, all_turns(first, branches), "done")
    passages = trajectory.passages(np.array(first.prompt_token_ids))
    assert [one.prompt_token_ids.tolist() for one in passages] == [policy.prompts[0], policy.prompts[1]]
    assert [one.text_token_ids[one.sampled].tolist() for one in passages] == [
        [*policy.sampled[0], *policy.sampled[2]],
        policy.sampled[1],
    ]


async def test_a_client_that_leaves_a_stream_in_the_middle_has_no_turn(tokenizer: PolicyTokenizer) -> None:
    async with says(tokenizer, "It is tea.") as (stage, policy):
        policy.may.clear()
        async with stage.client() as client:
            stream = await client.chat.completions.create(model="any", messages=[user("What?")], stream=True)
            await anext(aiter(stream))
            assert policy.asked == 1
        await stream.close()
        await until(lambda: policy.asked == 0)
        policy.may.set()
        await stage.say(user("What?"))
        assert [len(branch.turns) for branch in stage.recording.branches] == [1]


async def test_a_stream_is_refused_before_it_begins_and_so_is_one_whose_replica_is_lost_by_then(
    tokenizer: PolicyTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any, **__: Any) -> Any:
        raise GenerationError("unavailable", "the replica is gone")

    async with says(tokenizer, "It is tea.") as (stage, policy):
        with pytest.raises(openai.BadRequestError, match="holds the special token"):
            await chunks_of(stage, user("What?"), stop="<|end|>")
        monkeypatch.setattr(policy, "stream", lost)
        with pytest.raises(openai.InternalServerError, match="the policy cannot be asked"):
            await chunks_of(stage, user("What?"))
        with pytest.raises(GenerationError):
            await stage.recording.broken


async def test_a_stream_whose_replica_is_lost_in_the_middle_says_so_in_the_apis_words(
    tokenizer: PolicyTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*arguments: Any, **_: Any) -> Any:
        arguments[5](SampledTokens(tokenizer.encode_piece("I"), [-0.5]))
        raise GenerationError("unavailable", "the replica is gone")

    async with says(tokenizer, "It is tea.") as (stage, policy), stage.client() as client:
        monkeypatch.setattr(policy, "stream", lost)
        stream = await client.chat.completions.create(model="any", messages=[user("What?")], stream=True)
        assert (await anext(aiter(stream))).choices[0].delta.role == "assistant"
        with pytest.raises(openai.APIError, match="the policy cannot be asked"):
            [chunk async for chunk in stream]
        with pytest.raises(GenerationError):
            await stage.recording.broken
        assert stage.recording.branches == []


async def test_text_is_told_while_the_policy_samples_and_not_while_it_may_be_a_stop_or_a_call(
    tokenizer: PolicyTokenizer,
) -> None:
    text = f"Look:\n{CALL}"
    async with says(tokenizer, text) as (stage, policy), stage.client() as client:
        policy.at_once = len(tokenizer.encode_piece("Look:\n<tool_"))
        for fields, told in (
            ({"stop": ["\n<tool_call>"]}, "Look:"),
            ({"tools": TOOLS}, "Look:"),
            ({}, "Look:\n<tool_"),
        ):
            policy.may.clear()
            stream = await client.chat.completions.create(model="any", messages=[user("?")], stream=True, **fields)
            pieces = aiter(stream)
            said = ""
            while said != told:
                said += (await anext(pieces)).choices[0].delta.content or ""
            assert policy.asked == 1
            policy.may.set()
            rest = [chunk.choices[0] async for chunk in stream]
            said += "".join(one.delta.content or "" for one in rest)
            assert said == (text if not fields else "Look:")
            assert rest[-1].finish_reason == ("tool_calls" if "tools" in fields else "stop")


async def test_a_raw_stream_tells_tokens_and_where_each_begins_as_the_whole_answer_does(
    tokenizer: PolicyTokenizer,
) -> None:
    async with says(tokenizer, "It is 東京 tea.") as (stage, _), stage.client() as client:
        whole = (await client.completions.create(model="any", prompt="Q:", logprobs=0)).choices[0]
        stream = await client.completions.create(model="any", prompt="Q:", logprobs=0, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        assert len(chunks) > 4
        assert "".join(one.text for one in chunks) == whole.text == "It is 東京 tea."
        assert [token for one in chunks for token in getattr(one, "token_ids", ())] == whole.token_ids
        told = [one.logprobs for one in chunks if one.logprobs]
        for name in ("tokens", "token_logprobs", "text_offset"):
            assert [value for one in told for value in getattr(one, name)] == getattr(whole.logprobs, name)


async def test_a_stop_that_begins_later_and_is_complete_first_ends_the_text(tokenizer: PolicyTokenizer) -> None:
    async with says(tokenizer, "Look.\nObservation: none") as (stage, _):
        stops = ["k.\nObservation: no", "."]
        whole = (await stage.say(user("What?"), stop=stops)).choices[0]
        chunks = await chunks_of(stage, user("What?"), stop=stops)
        assert whole.message.content == "".join(one.choices[0].delta.content or "" for one in chunks) == "Look"


async def test_calls_of_tools_are_told_as_such_and_go_on_token_for_token(tokenizer: PolicyTokenizer) -> None:
    async with says(tokenizer, f"Let me see. {CALL}{CALL}", CALL, "3") as (stage, policy):
        first = (await stage.say(user("What is tea?"), tools=TOOLS, tool_choice="auto")).choices[0]
        assert (first.finish_reason, first.message.content) == ("tool_calls", "Let me see.")
        assert [one.function.arguments for one in first.message.tool_calls] == ['{"of": "tea"}'] * 2
        history = [user("What is tea?"), first.message.model_dump()]
        history += [{"role": "tool", "tool_call_id": one.id, "content": "3"} for one in first.message.tool_calls]
        chunks = await chunks_of(stage, *history, tools=TOOLS)
        (call,) = (one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or ())
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        spaced = {"name": call.function.name, "arguments": '{ "of":"tea" }'}  # as a client may write it again
        again = {"id": call.id, "type": "function", "function": spaced}
        history += [{"role": "assistant", "content": None, "tool_calls": [again]}]
        last = await stage.say(*history, {"role": "tool", "tool_call_id": call.id, "content": "3"}, tools=TOOLS)
        assert last.choices[0].message.content == "3"
        (branch,) = stage.recording.branches
        assert [len(turn.response.token_ids) for turn in branch.turns] == [len(one) for one in policy.sampled]
        told = "<|role|>user\n<tool_response>3</tool_response><|end|>\n"
        between = [tokenizer.tokenizer.decode(turn.context) for turn in branch.turns[1:]]
        assert between == [f"\n{told}{told}<|role|>assistant\n", f"\n{told}<|role|>assistant\n"]
        prompt = policy.prompts[0]
        assert policy.prompts[1][: len(prompt) + len(policy.sampled[0])] == [*prompt, *policy.sampled[0]]
        await stage.say(*history[:4])  # without the tools it is another conversation
        assert len(stage.recording.branches) == 2


async def test_calls_are_read_in_xml_where_the_template_writes_them_so(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(TEMPLATES["calls in XML, as Qwen3-Coder"], tmp_path)
    call = (
        "<tool_call>\n<function=buy>\n<parameter=what>\n2 teas\n</parameter>\n"
        "<parameter=many>\n2\n</parameter>\n</function>\n</tool_call>"
    )
    parameters = {"type": "object", "properties": {"what": {"type": "string"}, "many": {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": "buy", "parameters": parameters}}]
    async with says(tokenizer, f"Two, then.\n{call}", "Done.", CALL) as (stage, _):
        first = (await stage.say(user("Tea?"), tools=tools)).choices[0]
        assert (first.finish_reason, first.message.content) == ("tool_calls", "Two, then.")
        (asked,) = first.message.tool_calls
        assert (asked.function.name, asked.function.arguments) == ("buy", '{"what": "2 teas", "many": 2}')
        told = [first.message.model_dump(), {"role": "tool", "tool_call_id": asked.id, "content": "ok"}]
        assert (await stage.say(user("Tea?"), *told, tools=tools)).choices[0].message.content == "Done."
        (branch,) = stage.recording.branches
        assert len(branch.turns) == 2
        assert (await stage.say(user("Tea?"), tools=tools)).choices[0].message.content == CALL


async def test_what_is_no_call_stays_text(tokenizer: PolicyTokenizer) -> None:
    broken = "<tool_call>{price of tea}</tool_call>"
    async with says(tokenizer, CALL + broken, CALL.replace("tea", "\\ud800"), CALL) as (stage, policy):
        for text in (CALL + broken, CALL.replace("tea", "\\ud800")):
            choice = (await stage.say(user("What?"), tools=TOOLS)).choices[0]
            assert (choice.message.content, choice.finish_reason) == (text, "stop")
        policy.finish = FinishReason.LENGTH
        choice = (await stage.say(user("What?"), tools=TOOLS)).choices[0]
        assert (choice.message.tool_calls, choice.finish_reason) == (None, "length")


async def test_a_stop_ends_the_turn_with_the_token_that_completes_it(tokenizer: PolicyTokenizer) -> None:
    async with says(tokenizer, "Look.\nObservation: none") as (stage, policy):
        answer = await stage.say(user("What?"), stop=["\nObs", "none"], logprobs=True)
        choice = answer.choices[0]
        assert (choice.message.content, choice.finish_reason) == ("Look.", "stop")
        (branch,) = stage.recording.branches
        recorded = branch.turns[0].response
        text = tokenizer.decode_response(recorded.token_ids.tolist())
        assert "\nObs" in text
        assert "\nObs" not in tokenizer.decode_response(recorded.token_ids[:-1].tolist())
        assert recorded.token_ids.tolist() == policy.sampled[0][: len(recorded.token_ids)]
        assert [one.logprob for one in choice.logprobs.content] == recorded.behaviour_logprobs.tolist()
        assert [(span.begin, span.end) for span in recorded.spans] == [(0, len(recorded.token_ids))]
        assert (branch.judged.text, branch.judged.finish_reason) == ("Look.", FinishReason.STOP)
        await stage.say(user("What?"), choice.message.model_dump(), user("none"))
        assert tokenizer.tokenizer.decode(branch.turns[1].context).startswith("<|end|>\n<|role|>user\nnone")
        assert stage.table.ended(0, branch.turns, "done").turns[0].tokens == len(recorded.token_ids)


async def test_a_raw_prompt_goes_on_token_for_token_as_text_and_as_tokens(tokenizer: PolicyTokenizer) -> None:
    async with says(tokenizer, "It is tea.", "More.") as (stage, policy), stage.client() as client:
        first = await client.completions.create(model="any", prompt="Q: what?\nA:", logprobs=0)
        choice = first.choices[0]
        assert (choice.text, choice.finish_reason, first.object) == ("It is tea.", "stop", "text_completion")
        assert "".join(choice.logprobs.tokens) == "It is tea.<|end|>"
        (turn,) = stage.recording.branches[0].turns
        assert choice.logprobs.token_logprobs == turn.response.behaviour_logprobs.tolist()
        whole = "Q: what?\nA:" + choice.text + "\nQ: and?\nA:"
        stream = await client.completions.create(
            model="any", prompt=whole, stream=True, stream_options={"include_usage": True}
        )
        *told, last, usage = [chunk async for chunk in stream]
        assert ("".join(one.choices[0].text for one in told), last.choices[0].finish_reason) == ("More.", "stop")
        assert usage.usage.prompt_tokens == len(policy.prompts[1])
        (branch,) = stage.recording.branches
        assert branch.tokens == [*policy.prompts[1], *policy.sampled[1]]
        assert policy.prompts[1][: len(policy.prompts[0]) + len(policy.sampled[0])] == [
            *policy.prompts[0],
            *policy.sampled[0],
        ]
        begun = await client.completions.create(model="any", prompt=[5, 6, 7])
        so_far = [5, 6, 7, *begun.choices[0].token_ids]
        await client.completions.create(model="any", prompt=[*so_far, 8])
        assert [len(branch.turns) for branch in stage.recording.branches] == [2, 2]
        assert stage.recording.branches[1].turns[1].context == [8]


async def test_what_is_no_raw_prompt_is_refused(tokenizer: PolicyTokenizer) -> None:
    async with says(tokenizer, "It is tea.") as (stage, _), stage.client() as client:
        refused: list[tuple[dict[str, Any], str]] = [
            ({"prompt": ["a", "b"]}, "prompt"),
            ({"prompt": []}, "prompt"),
            ({"prompt": ""}, "prompt"),
            ({"prompt": "a", "n": 2}, "n"),
            ({"prompt": "a", "best_of": 2}, "best_of"),
            ({"prompt": "a", "echo": True}, "echo"),
            ({"prompt": "a", "logprobs": 3}, "logprobs"),
        ]
        for fields, param in refused:
            with pytest.raises(openai.BadRequestError) as error:
                await client.completions.create(model="any", **fields)
            assert error.value.param == param
        assert stage.recording.branches == []
