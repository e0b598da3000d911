"""The environments that are built in, and what one of the user's may give."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ais.collector.environments.calls import (
    LONGEST_STATE,
    EnvironmentFaultError,
    answered,
    messages_in,
    opened,
    step_in,
)
from ais.collector.environments.guess_number import GuessNumber
from ais.collector.environments.opening import open_environment
from ais.collector.environments.protocol import Environment, PolicyTurn, Prompt, Step
from ais.collector.environments.tool_calls import call_in
from ais.collector.environments.tools import Calculator, calculate, schema_of
from ais.collector.prompts.prompts import Split, TaskError
from ais.collector.settings import TaskSettings
from ais.collector.settings.environments import EnvironmentSettings
from ais.collector.tasks.calculations import CalculationsTask, sessions
from ais.collector.tasks.guess_number import games
from ais.collector.tasks.task import open_task
from ais.contracts.sampling import FinishReason


def said(text: str, finish_reason: FinishReason = FinishReason.STOP) -> PolicyTurn:
    return PolicyTurn(text, finish_reason, 0, 5)


def contents(step: Step) -> list[str]:
    return [message["content"] for message in step.messages]


# Guess the number.


def game(number: int) -> GuessNumber:
    environment = GuessNumber()
    environment.reset(Prompt("p", "00-31;", str(number)))
    return environment


@pytest.mark.parametrize(
    ("guess", "told"), [("07", ["+"]), ("30", ["-"]), ("9", ["*"]), ("32", ["*"]), ("x", ["*"]), ("", ["*"])]
)
def test_a_guess_is_told_higher_lower_or_no_number(guess: str, told: list[str]) -> None:
    step = game(20).step(said(guess))
    assert (contents(step), step.reward, step.done) == (told, 0.0, False)


def test_the_right_guess_ends_the_game_with_reward_1_unless_it_was_cut_off() -> None:
    assert game(20).step(said("20")) == Step(reward=1.0, done=True)
    assert contents(game(20).step(said("20", FinishReason.LENGTH))) == ["*"]


def test_the_task_thinks_of_every_number_and_the_same_ones_again() -> None:
    settings = TaskSettings(name="guess_number", highest=9)
    task = open_task(settings, 3, Split.TRAIN)
    prompts = [task.prompt(ordinal) for ordinal in range(200)]
    assert {prompt.text for prompt in prompts} == {"0-9;"}
    assert {int(prompt.answer) for prompt in prompts} == set(range(10))
    assert prompts == [open_task(settings, 3, Split.TRAIN).prompt(ordinal) for ordinal in range(200)]


def test_demonstrated_turns_are_what_the_environment_makes_of_those_guesses() -> None:
    for said_so_far, guess, best in islice(games(31, 0.5, random.Random(0), "$"), 200):
        question, *turns = said_so_far.replace(";", ";$").split("$")
        assert question == "00-31;"
        low, high = 0, 31
        for number, turn in pairwise(turns):
            tried = int(number.lstrip("+-"))
            low, high = (max(low, tried + 1), high) if turn[0] == "+" else (low, min(high, tried - 1))
        assert int(best) == (low + high) // 2
        assert len(guess) == 2


# Tools.


def test_a_calculator_runs_what_is_asked_for_and_judges_the_answer_after_it() -> None:
    calculator: Any = open_environment(EnvironmentSettings(name="calculator"))()
    calculator.reset(Prompt("p", "What is 6 * 7 / 4?", "10.5"))
    call = '<tool_call>{"name": "calculate", "arguments": {"expression": "6 * 7 / 4"}}</tool_call>'
    step = calculator.step(said(f"Let me see. {call}"))
    assert (contents(step), step.messages[0]["role"], step.done) == (["21/2"], "tool", False)
    assert calculator.step(said("It is 10.5.")) == Step(reward=1.0, done=True)
    assert calculator.step(said("So 42 / 4 = 21/2")) == Step(reward=1.0, done=True)
    assert calculator.step(said("10.5 or 11")) == Step(reward=0.0, done=True)


def test_the_answers_of_the_calculations_are_the_calculators_and_no_calculation_is_in_two_splits() -> None:
    settings, asked = TaskSettings(name="calculations"), list[set[str]]()
    for split in Split:
        task = open_task(settings, 0, split)
        prompts = [task.prompt(ordinal) for ordinal in range(200)]
        assert [prompt.answer for prompt in prompts] == [calculate(prompt.text.rstrip("=")) for prompt in prompts]
        asked.append({prompt.text for prompt in prompts})
    assert sum(map(len, asked)) == len(set.union(*asked))
    assert settings.effective_environment == EnvironmentSettings(name="calculator")


def test_demonstrated_sessions_are_what_the_calculator_makes_of_those_calls() -> None:
    task, heard = CalculationsTask(0, Split.DEMONSTRATION, "calculations"), Counter[str]()
    for said_so_far, says, right in islice(sessions(task, 0.5, random.Random(0), "$"), 200):
        question, *asked = said_so_far.split("=", 1)
        calculator = Calculator()
        calculator.reset(Prompt("p", question, calculate(question)))
        if asked == [""]:
            (told,) = contents(calculator.step(said(right)))
            assert told == calculate(question)
            heard["right" if says == right else "a call" if "tool_call" in says else "no call"] += 1
        else:
            call, result = asked[0].split("$")
            assert contents(calculator.step(said(call))) == [result.rstrip("=")] == [right]
            heard["told" if says == right else "misread"] += 1
    assert min(heard[kind] for kind in ("right", "a call", "no call", "told", "misread")) > 10


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("{", "JSONDecodeError"),
        ('{"name": "eval", "arguments": {}}', "one of calculate"),
        ('{"name": "calculate"}', "one of calculate"),
        ('{"name": "calculate", "arguments": ["1"]}', "must be an object"),
        ('{"name": "calculate", "arguments": {"expression": "2 ** 99"}}', "no calculation"),
        ('{"name": "calculate", "arguments": {"code": "1"}}', "TypeError"),
        ("[]", "a call has a name"),
        ('{"name": "calculate", "arguments": {"\\ud800": "1"}}', "argument '?'"),
    ],
)
def test_a_call_that_cannot_be_made_is_told_so(call: str, told: str) -> None:
    calculator = Calculator()
    calculator.reset(Prompt("p", "?", "1"))
    (result,) = contents(calculator.step(said(f"<tool_call>{call}</tool_call>")))
    assert result.startswith("error: ")
    assert told in result


def test_a_tools_schema_is_made_of_its_signature() -> None:
    assert schema_of(calculate) == {
        "type": "function",
        "function": {
            "name": "calculate",
            "description": "Calculates an expression of whole numbers with + - * / and parentheses.",
            "parameters": {
                "type": "object",
                "properties": {"expression": {"type": "string"}},
                "required": ["expression"],
            },
        },
    }
    with pytest.raises(ValueError, match="parameter paths needs one of the types"):
        schema_of(lambda paths: paths)


# An environment of the user's.


class Counting:
    """Says how many turns there were; awaits something on the way."""

    def __init__(self, start: int = 0) -> None:
        self.turns = start

    def reset(self, prompt: Prompt) -> Sequence[dict[str, Any]]:
        return [{"role": "user", "content": f"{prompt.text}!"}]

    async def step(self, turn: PolicyTurn) -> Step:
        self.turns += 1
        return Step([{"role": "user", "content": f"{self.turns} {turn.text}"}], reward=0.25)


class Unpicklable(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.opened = open
        self.never = lambda: None


class Huge(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.memory = bytes(LONGEST_STATE + 1)


def test_an_environment_goes_on_from_its_pickle_and_begins_alike_for_all_episodes() -> None:
    begun = opened(Counting, Prompt("p", "go", ""))
    assert (begun["messages"], begun["tools"]) == ([{"role": "user", "content": "go!"}], None)
    first = answered(begun["state"], said("a"))
    assert answered(first["state"], said("b"))["messages"] == [{"role": "user", "content": "2 b"}]
    assert answered(begun["state"], said("c"))["messages"] == [{"role": "user", "content": "1 c"}]


@pytest.mark.parametrize(("make", "why"), [(Unpicklable, "cannot be pickled"), (Huge, "bytes pickled")])
def test_what_cannot_be_kept_is_refused(make: Any, why: str) -> None:
    with pytest.raises(EnvironmentFaultError, match=why):
        opened(make, Prompt("p", "go", ""))


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"messages": [], "reward": float("nan"), "done": True}, "finite number as reward"),
        ({"messages": [], "reward": True, "done": True}, "finite number as reward"),
        ({"messages": [], "reward": 1e9, "done": True}, "reward within"),
        ({"messages": [], "reward": 10**400, "done": True}, "reward within"),  # no float holds it
        ({"messages": [], "reward": 0.0, "done": 1}, "done to be true or false"),
        ({"messages": [], "reward": 0.0, "done": False}, "needs a message"),
        ({"messages": [{"role": "user", "content": ""}], "reward": 0.0, "done": False}, "needs a message"),
        ({"messages": "go on", "reward": 0.0, "done": False}, "a list of up to"),
        ({"messages": [{"content": "x"}], "reward": 0.0, "done": False}, "role and content"),
        ({"messages": [{"role": "user", "content": "x" * 200_000}], "reward": 0.0, "done": False}, "bytes as JSON"),
        ({"messages": [{"role": "user", "content": "x", "seen": {1}}], "reward": 0.0, "done": False}, "JSON can hold"),
        ({"messages": [{"role": "user", "content": "\ud800"}], "reward": 0.0, "done": False}, "JSON can hold"),
    ],
)
def test_a_step_that_is_none_is_refused(told: dict[str, Any], why: str) -> None:
    with pytest.raises(EnvironmentFaultError, match=why):
        step_in(told)
    assert messages_in([]) == []


def test_a_class_of_the_users_is_found_in_its_directory_and_called_with_its_parameters(tmp_path: Path) -> None:
    (tmp_path / "own_environment.py").write_text(
        "class Game:\n"
        "    def __init__(self, start): self.turns = start\n"
        "    def reset(self, prompt): pass\n"
        "    def step(self, turn): raise RuntimeError(self.turns)\n"
    )
    settings = EnvironmentSettings(
        name="python", object="own_environment:Game", directory=tmp_path, parameters={"start": 3}
    )
    environment: Environment = open_environment(settings)()
    assert pickle.loads(pickle.dumps(environment)).turns == 3
    with pytest.raises(TaskError, match="cannot import the environment own_environment:Play"):
        open_environment(settings.model_copy(update={"object": "own_environment:Play"}))
    with pytest.raises(TaskError, match="cannot be called"):
        open_environment(EnvironmentSettings(name="python", object="string:digits"))


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ({"environment": {"name": "python"}}, "environment.object go together"),
        ({"environment": {"name": "guess_number", "object": "a:b"}}, "environment.object go together"),
        ({"environment": {"name": "calculator"}, "verifier": "numeric"}, "gives the reward itself"),
        (
            {"name": "mixture", "environment": {"name": "retry"}, "sources": [{"name": "sort"}]},
            "belongs to each source of the mixture",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(task: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        TaskSettings.model_validate(task)


def test_the_components_of_a_reward_are_named_before_anything_runs() -> None:
    assert TaskSettings(name="guess_number").all_component_labels == {"episode", "turns"}
    retried = TaskSettings.model_validate({"environment": {"name": "retry"}, "verifier": "numeric"})
    assert retried.all_component_labels == {"numeric", "turns"}
    assert TaskSettings().all_component_labels == {"exact_match"}


@pytest.mark.parametrize(
    ("written", "result"),
    [
        ("<function=calculate><parameter=expression>\n6 * 7\n</parameter></function>", "42"),
        ("\n<function=calculate>\n<parameter=expression>6 * 7</parameter>\n</function>\n", "42"),
        ("<function=calculate></function>", "error: TypeError"),
        ("<function=calculate><parameter=expression>6</function>", "error: arguments are <parameter=NAME>"),
        ("<function=calculate>6</function>", "error: arguments are <parameter=NAME>"),
        ("<function=calculate><parameter=expression>6</parameter>", "error: a call is <function=NAME>"),
        ("<function=>6</function>", "error: a call is <function=NAME>"),
    ],
)
def test_a_call_may_be_written_in_xml(written: str, result: str) -> None:
    calculator = Calculator()
    calculator.reset(Prompt("one", "What is 6 * 7?", "42"))
    (told,) = contents(calculator.step(said(f"<tool_call>{written}</tool_call>")))
    assert told.startswith(result)


def test_the_values_of_a_call_in_xml_are_text_unless_the_schema_says_otherwise() -> None:
    properties = {"many": {"type": "integer"}, "all": {"type": "array"}, "text": {"type": "string"}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}]
    values = {"many": "2", "all": "[1, 2]", "text": "3", "unknown": "4"}
    written = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    call = call_in(f"<function=f>\n{written}</function>", tools)
    assert call.arguments == {"many": 2, "all": [1, 2], "text": "3", "unknown": "4"}
    with pytest.raises(ValueError, match="Expecting value"):
        call_in("<function=f><parameter=many>two</parameter></function>", tools)
    assert call_in("<function=g><parameter=many>two</parameter></function>", tools).arguments == {"many": "two"}
