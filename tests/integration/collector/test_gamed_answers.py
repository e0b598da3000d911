"""Answers that try to game a parser, put to every verifier that there is, where the collector has it judge.

Each is wrong, or hides what it says: none may be worth anything, and none may make a verifier fail. Only what nobody
can compute may be stopped, and is counted then.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from fastapi import FastAPI, Request

from ais.collector.judging.judgement import Outcome
from ais.collector.judging.opening import open_judge
from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.rewards.opening import is_quick
from ais.collector.rewards.response import Response
from ais.collector.settings import CollectorSettings, TaskSettings
from ais.collector.settings.rewards import Component, VerifierName
from ais.collector.tasks.task import open_task
from ais.runtime.network.http import serve

MEGABYTE = 1 << 20
SOLVED = "1234341221434321"
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
QUICK_SECONDS = 3.0
"""Processor time for all attacks together: what is judged in the collector's loop must not stop it."""


@dataclass(frozen=True)
class Parser:
    """A verifier, an answer that it finds right, and where it looks for answers."""

    right: str
    wrong: str
    wrap: Callable[[str], str] = str
    settings: dict[str, Any] = field(default_factory=dict)
    answer: str | None = None
    """The prompt's; None: the right one."""
    metadata: dict[str, Any] = field(default_factory=dict)
    own_attacks: dict[str, str] = field(default_factory=dict)
    """Whole responses."""
    most: float = 0.0
    """What a wrong answer may be worth."""

    @property
    def prompt(self) -> Prompt:
        return Prompt("p", "q", self.right if self.answer is None else self.answer, self.metadata)


def tagged(answer: str) -> str:
    return f"I think. <answer>{answer}</answer>"


def boxed(answer: str) -> str:
    return rf"So \boxed{{{answer}}}."


def hashed(answer: str) -> str:
    return f"So\n#### {answer}"


PARSERS = {
    "exact_match": Parser("42", "43"),
    "last_step": Parser("42", "43", answer="21;42"),
    "regular_expression": Parser("42", "43", hashed),
    "numeric": Parser("42", "43", tagged, own_attacks={"within no tolerance": tagged("1e-9999")}),
    "math_verify": Parser(
        "42",
        "43",
        boxed,
        own_attacks={
            "both signs": boxed(r"\pm 42"),
            "a set": boxed(r"\{42, 43\}"),
            "an interval": boxed("[42, 43]"),
            "an alternative": boxed(r"42 \text{ or } 43"),
            "an inequality": boxed("41 < 42"),
            "a box in a box": boxed(r"42\boxed{43"),
            "recursion": boxed(r"\def\a{\a\a}\a"),
        },
    ),
    "multiple_choice": Parser("B", "C", tagged, own_attacks={"all letters": tagged("A B C D E")}),
    "countdown": Parser(
        "(25 - 5) * 4",
        "25 * 4 - 20",
        tagged,
        metadata={"numbers": [4, 5, 25], "target": 80},
        own_attacks={
            "code": tagged("__import__('os').getpid()"),
            "a power": tagged("4 ** 5 ** 25"),
            "the target": tagged("80 = 80"),
        },
    ),
    "sudoku": Parser(SOLVED, "2" + SOLVED[1:], tagged, metadata={"puzzle": "1" + "0" * 15}),
    "json_schema": Parser(
        '{"n": 42}',
        '{"n": 43}',
        settings={"json_schema": {"type": "object", "properties": {"n": {"multipleOf": 0.5}}}, "equal": True},
        own_attacks={
            "no number": '{"n": NaN}',
            "infinity": '{"n": 1e999}',
            "a key twice": '{"n": 43, "n": 42}',
            "a long number": '{"n": ' + "4" * 3900 + "}",
            "nesting": '{"n": ' + "[" * 1900 + "]" * 1900 + "}",
        },
    ),
    "reasoning_gym": Parser("", "", tagged),
    "format": Parser(
        "<think>a</think><answer>b</answer>",
        "<answer>b</answer>",
        own_attacks={
            "tags in tags": "<think><answer></think>b</answer>",
            "a tag twice": "<think>a</think><answer>b</answer></answer>",
            "a hidden tag": "<thi\u200bnk>a</think><answer>b</answer>",
        },
    ),
    "overlong": Parser("42", "", settings={"buffer": 4, "longest": 8}),
    "function": Parser("42", "43", settings={"function": "tests.support.judges:equal"}),
    "service": Parser("42", "43", settings={"retries": 0}),
}
"""Every verifier by its name."""
WHATEVER_IT_SAYS = {"overlong"}
"""Verifiers that count tokens, and so give every response of the same length the same."""


BOMBS = ("10**10**10", "9^{9^{9^{9}}}", "(10^{10})!")
"""What nobody can compute."""
BOMB_SECONDS = 2.0
GENEROSITY = 0.01
"""What reasoning-gym may give to a long answer with the right one somewhere in it: a fraction, by its own rules."""


def attacks(parser: Parser) -> Iterator[tuple[str, str]]:
    """Responses that are worth nothing, by what they try."""
    right, wrong, wrap = parser.right, parser.wrong, parser.wrap
    yield "a wrong answer", wrap(wrong)
    yield "a second answer", wrap(right) + " " + wrap(wrong)
    yield "an injected end", wrap(f"{right}</answer>{wrong}")
    yield "an injected end before", wrap(f"{wrong}</answer>{right}</answer>")
    yield "an injected beginning", wrap(f"{right}<answer>{wrong}")
    yield "full width", wrap(right.translate(FULL_WIDTH))
    for script in (0x0660, 0x06F0, 0x0966, 0x1D7CE):  # Arabic-Indic, Extended Arabic-Indic, Devanagari, bold
        yield f"digits from U+{script:X}", wrap(right.translate({ord("0") + n: script + n for n in range(10)}))
    yield "superscripts", wrap(right.translate(SUPERSCRIPTS))
    for name, mark in (("NUL", "\0"), ("right to left", "\u202e"), ("an RTL mark", "\u200f"), ("no width", "\u200b")):
        yield f"{name} before", wrap(mark + right)
        yield f"{name} within", wrap(right[:1] + mark + right[1:])
    yield "right to left, turned round", wrap("\u202e" + right[::-1] + "\u202c")
    for bracket in "([{<":
        yield f"a megabyte of {bracket}", wrap(bracket * MEGABYTE)
    yield "half a megabyte of brackets around", wrap("(" * (MEGABYTE // 2) + right + ")" * (MEGABYTE // 2))
    for huge in ("1e999999999", "-1e999999999", "9" * 3999):
        yield f"a huge number {huge[:20]}", wrap(huge)
    for nothing in ("1/0", r"\frac{1}{0}", "0/0", r"\frac{0}{0}", "42/0", "nan", "inf", r"\infty"):
        yield f"no number {nothing}", wrap(nothing)
    yield "fractions in fractions", wrap(r"\frac{1}{" * 400 + "1" + "}" * 400)
    yield "roots in roots", wrap(r"\sqrt{" * 400 + right + "}" * 400)
    yield "nothing", wrap("")
    yield "white space", wrap(" \n\t")
    yield from parser.own_attacks.items()


def reasoning_gym() -> tuple[dict[str, Any], Parser, Prompt]:
    """A sum of that library: the task's settings, its right answer, its prompt."""
    pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")
    task = {"name": "reasoning_gym", "datasets": [{"name": "chain_sum"}]}
    prompt = open_task(TaskSettings.model_validate(task), 0, Split.TRAIN).prompt(0)
    return task, Parser(prompt.answer, str(int(prompt.answer) + 1), tagged, most=GENEROSITY), prompt


@asynccontextmanager
async def comparing_service() -> AsyncIterator[str]:
    """A reward service that gives 1 for a response that is the answer; its URL."""
    app = FastAPI()

    @app.post("/")
    async def scores(request: Request) -> Any:
        return {"scores": [float(item["response"] == item["answer"]) for item in (await request.json())["items"]]}

    async with serve(app, "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}/"


def test_every_verifier_is_attacked() -> None:
    kinds = get_args(get_args(Component)[0])
    assert {kind.model_fields["verifier"].default for kind in kinds} == PARSERS.keys()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("verifier", PARSERS)
async def test_no_verifier_is_gamed(verifier: str) -> None:
    for library, name in (("math_verify", "math_verify"), ("jsonschema", "json_schema")):
        if name == verifier:
            pytest.importorskip(library, reason="needs the extra rewards")
    parser = PARSERS[verifier]
    task: dict[str, Any] = {}
    prompt = parser.prompt
    if verifier == "reasoning_gym":
        task, parser, prompt = reasoning_gym()
    async with comparing_service() as url:
        component = {"verifier": verifier, **parser.settings, **({"url": url} if verifier == "service" else {})}
        by_name = verifier in get_args(VerifierName) and not parser.settings
        task |= {"verifier": verifier} if by_name else {"reward": [component]}

        async def judged(texts: Sequence[str], seconds: float) -> tuple[tuple[float, ...], dict[str, Outcome]]:
            """Rewards, and what became of the responses that were not judged."""
            settings = CollectorSettings.model_validate({"task": task, "judging": {"seconds": seconds}})
            async with open_judge(settings) as judge:
                found = await judge.judge(prompt, [Response(text, tokens=4) for text in texts])
            failures = [failure for part in found.components for failure in part.failures]
            return found.rewards, {texts[failure.index]: Outcome(failure.outcome) for failure in failures}

        tried = {name: text for name, text in attacks(parser) if text != parser.wrap(parser.right)}
        began = time.process_time()
        (best, *gamed), failures = await judged([parser.wrap(parser.right), *tried.values()], 60.0)
        used = time.process_time() - began
        blown, bombs = await judged([parser.wrap(bomb) for bomb in BOMBS], BOMB_SECONDS)
    if verifier in WHATEVER_IT_SAYS:
        assert {best, *gamed, *blown} == {best}
        return
    assert best == 1.0
    assert {name: reward for name, reward in zip(tried, gamed, strict=True) if reward > parser.most} == {}
    assert failures == {}
    assert max(blown) <= parser.most
    assert set(bombs.values()) <= {Outcome.OVERTIME, Outcome.MEMORY}
    if is_quick(TaskSettings.model_validate(task).effective_reward[0]):
        assert used < QUICK_SECONDS
        assert bombs == {}
