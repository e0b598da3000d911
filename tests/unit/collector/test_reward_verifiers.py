"""Each verifier by its name: what docs/rewards.md says it rewards, and answers that try to game its parser."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from pydantic import TypeAdapter

from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.rewards.extraction import extracted
from ais.collector.rewards.opening import is_quick, open_verifier
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings.rewards import Component
from tests.support.judges import ended

SOLVED = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
BLANKED = SOLVED.replace("5", "0")
MEGABYTE = 1 << 20


def component(verifier: str, **settings: Any) -> Component:
    read: Component = TypeAdapter(Component).validate_python({"verifier": verifier, **settings})
    return read


def opened(verifier: str, **settings: Any) -> Verifier:
    return open_verifier(component(verifier, **settings))


def prompt(answer: str = "", **metadata: Any) -> Prompt:
    return Prompt("p", "q", answer, metadata)


def tagged(text: str) -> Response:
    return ended(f"I think. <answer>{text}</answer>")


def boxed(text: str) -> Response:
    return ended(rf"So \boxed{{{text}}}.")


# Where the answer stands.


@pytest.mark.parametrize(
    ("extraction", "text", "answer"),
    [
        ("whole", " 42\n", "42"),
        ("answer_tag", "<answer>1</answer> no, <answer> 42 </answer>", "42"),
        ("answer_tag", "<answer>41<answer>42</answer>", "42"),
        ("boxed", r"\boxed{1} or \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", r"\boxed {4\}2}", r"4\}2"),
        ("hash", "#### 1\n#### 42\nmore", "42"),
    ],
)
def test_the_last_answer_is_the_answer(extraction: Any, text: str, answer: str) -> None:
    assert extracted(text, extraction) == answer


@pytest.mark.parametrize(
    ("extraction", "text"),
    [
        ("answer_tag", "42"),
        ("answer_tag", "<answer>42"),
        ("answer_tag", "<answer>41</answer>42</answer>"),  # an injected end
        ("answer_tag", "<answer> </answer>"),
        ("boxed", r"\boxed{42"),
        ("boxed", r"\boxed 42"),
        ("hash", "### 42"),
        ("whole", "4\u200b2"),  # a space of no width
        ("whole", "\u202e24\u202c"),  # shown as 42
        ("whole", "\N{ARABIC-INDIC DIGIT FOUR}2"),
        ("whole", "\N{FULLWIDTH DIGIT FOUR}2"),
        ("whole", "4\N{SUPERSCRIPT TWO}"),
        ("whole", "4" * 5000),
    ],
)
def test_what_is_unclear_or_hidden_is_no_answer(extraction: Any, text: str) -> None:
    assert extracted(text, extraction) is None


@pytest.mark.parametrize("extraction", ["whole", "answer_tag", "boxed", "hash"])
@pytest.mark.parametrize("part", ["{", "}", "<answer>", "</answer>", "\\boxed{", "#", "#### ", "(", "\\", " "])
def test_a_megabyte_of_anything_is_looked_at_in_no_time(extraction: Any, part: str) -> None:
    text = part * (MEGABYTE // len(part))
    began = time.process_time()
    extracted(text, extraction)
    assert time.process_time() - began < 0.5


# Numbers and letters.


@pytest.mark.parametrize("given", ["1000", "1,000", "$1000$", "1e3", "1000.0005"])
def test_a_number_within_the_tolerance_is_right(given: str) -> None:
    assert opened("numeric")(tagged(given), prompt("1000")) == 1.0


@pytest.mark.parametrize("given", ["1000.1", "1000 or 2000", "one thousand", "1000\N{ARABIC-INDIC DIGIT ONE}", "inf"])
def test_another_number_is_wrong(given: str) -> None:
    assert opened("numeric")(tagged(given), prompt("1000")) == 0.0


def test_tolerances_are_relative_and_absolute() -> None:
    assert opened("numeric", tolerance=0.1)(tagged("109"), prompt("100")) == 1.0
    assert opened("numeric", tolerance=0.0)(tagged("100.001"), prompt("100")) == 0.0
    assert opened("numeric", tolerance=0.0, absolute_tolerance=0.5)(tagged("0.4"), prompt("0")) == 1.0
    assert opened("numeric", extract="hash")(ended("#### 7"), prompt("7")) == 1.0


def test_a_prompt_whose_answer_is_no_number_is_a_failed_judgement() -> None:
    with pytest.raises(ValueError, match="is no number"):
        opened("numeric")(tagged("1"), prompt("one"))


@pytest.mark.parametrize("given", ["B", "b", "(B)", "B.", "B)", "**B**", r"\text{B}", " B "])
def test_a_letter_is_right_however_it_is_wrapped(given: str) -> None:
    assert opened("multiple_choice")(tagged(given), prompt("B")) == 1.0


@pytest.mark.parametrize("given", ["A", "AB", "B or C", "A B", "Because", "\N{CYRILLIC CAPITAL LETTER VE}", "(B)(C)"])
def test_more_than_the_letter_is_wrong(given: str) -> None:
    assert opened("multiple_choice")(tagged(given), prompt("B")) == 0.0


def test_letters_beyond_those_of_the_choice_are_no_answers_of_prompts() -> None:
    assert opened("multiple_choice", letters="ABCDEFGH")(tagged("H"), prompt("H")) == 1.0
    with pytest.raises(ValueError, match="none of ABCDE"):
        opened("multiple_choice")(tagged("H"), prompt("H"))


# Games.


@pytest.mark.parametrize("given", ["(25 - 5) * 4", "4*(25-5)", "(25 − 5) × 4 = 80", "(25-5)*4"])
def test_a_calculation_with_the_numbers_reaches_the_target(given: str) -> None:
    assert opened("countdown")(tagged(given), prompt("", numbers=[4, 5, 25], target=80)) == 1.0


@pytest.mark.parametrize(
    "given",
    [
        "80",
        "25 * 4 - 20",
        "(25 - 5) * 4 = 81",
        "(25 - 5) * 4 = 80 = 80",
        "5 ** 2 * 4 - 20",
        "__import__('os').system('true')",
        "(25 - 5) * 4 #",
        "(25 // 5) * 4",
        "25 / 0",
        "(" * 200 + "80" + ")" * 200,
        "9**9**9",
        "(25 - 5) * \N{FULLWIDTH DIGIT FOUR}",
    ],
)
def test_what_is_no_calculation_of_the_game_is_wrong(given: str) -> None:
    assert opened("countdown")(tagged(given), prompt("", numbers=[4, 5, 25], target=80)) == 0.0


def test_numbers_may_be_left_out_where_that_is_allowed() -> None:
    puzzle = prompt("20", numbers=[4, 5, 25])
    assert opened("countdown", use_all=False)(tagged("4 * 5"), puzzle) == 1.0
    assert opened("countdown", use_all=False)(tagged("4 * 5 * 5 / 5"), puzzle) == 0.0
    assert opened("countdown")(tagged("4 * 5"), puzzle) == 0.0


@pytest.mark.parametrize("puzzle", [BLANKED, [[int(c) for c in BLANKED[9 * i : 9 * i + 9]] for i in range(9)]])
def test_a_filled_grid_is_right(puzzle: Any) -> None:
    rows = "\n".join(" ".join(SOLVED[9 * i : 9 * i + 9]) for i in range(9))
    assert opened("sudoku")(tagged(SOLVED), prompt("", puzzle=puzzle)) == 1.0
    assert opened("sudoku")(tagged(rows), prompt("", puzzle=puzzle)) == 1.0
    assert opened("sudoku")(tagged("1234 3412 2143 4321"), prompt("1234341221434321")) == 1.0


@pytest.mark.parametrize(
    "grid",
    [
        BLANKED,
        SOLVED[:-1],
        SOLVED[::-1],  # a right grid, of another puzzle
        SOLVED.replace("1", "2"),
        SOLVED.replace("9", "\N{ARABIC-INDIC DIGIT NINE}"),
        "1" * 81,
        SOLVED * 2,
    ],
)
def test_another_grid_is_wrong(grid: str) -> None:
    assert opened("sudoku")(tagged(grid), prompt("", puzzle=BLANKED)) == 0.0


# Libraries.


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("42", "42"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\{1, 2\}", r"\{2, 1\}"),
        ("x = 5", "5"),
        ("(1, 2)", "(1,2)"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("42", r"$42$"),
        ("42", r"so \boxed{42}"),
    ],
)
def test_equal_mathematics_is_right(given: str, answer: str) -> None:
    assert opened("math_verify")(boxed(given), prompt(answer)) == 1.0


@pytest.mark.parametrize(
    "given",
    [
        r"\boxed{41} \boxed{43}",
        "42 or 43",
        "41, 42",
        "[0, 100]",
        "x",
        "",
        "42\N{ARABIC-INDIC DIGIT ZERO}",
        "\N{ARABIC-INDIC DIGIT FOUR}\N{ARABIC-INDIC DIGIT TWO}",
        "4\u200b2",
        "}" * 100,
        "{" * 100,
    ],
)
def test_other_mathematics_is_wrong(given: str) -> None:
    assert opened("math_verify")(boxed(given), prompt("42")) == 0.0


def test_only_the_last_box_counts() -> None:
    verify = opened("math_verify")
    assert verify(ended(r"\boxed{42} and \boxed{43}"), prompt("42")) == 0.0
    assert verify(ended(r"\boxed{43} and \boxed{42}"), prompt("42")) == 1.0
    assert verify(ended(r"42 is the answer"), prompt("42")) == 0.0


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize("given", ['{"n": 1}', '```json\n{"n": 1}\n```', ' {"n":1} '])
def test_json_that_the_schema_accepts_is_right(given: str) -> None:
    assert opened("json_schema", json_schema=SCHEMA)(ended(given), prompt()) == 1.0
    assert opened("json_schema")(ended(given), prompt(schema=SCHEMA)) == 1.0


@pytest.mark.parametrize(
    "given",
    [
        '{"n": "1"}',
        '{"n": 1} {"n": 2}',
        '{"n": 1, "n": 2}',
        '{"n": NaN}',
        "[" * 1000,
        "[" * MEGABYTE,
        'sure: {"n": 1}',
        "",
    ],
)
def test_json_that_it_does_not_accept_is_wrong(given: str) -> None:
    assert opened("json_schema", json_schema=SCHEMA)(ended(given), prompt()) == 0.0


def test_json_may_have_to_be_the_answer() -> None:
    verify = opened("json_schema", json_schema={"type": "object"}, equal=True)
    assert verify(ended('{"b": 2, "a": 1}'), prompt(json.dumps({"a": 1, "b": 2}))) == 1.0
    assert verify(ended('{"a": true, "b": 2}'), prompt(json.dumps({"a": 1, "b": 2}))) == 0.0


def test_a_schema_that_is_none_is_refused_and_no_reference_is_fetched() -> None:
    with pytest.raises(TaskError, match="is no JSON schema"):
        opened("json_schema", json_schema={"type": "objekt"})
    verify = opened("json_schema", json_schema={"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(Exception, match="Unresolvable"):
        verify(ended("{}"), prompt())


# Form and length.


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a</think>\n<answer>b</answer>", 1.0),
        ("  <think></think><answer>b</answer>\n", 1.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a</think><answer>b</answer></answer>", 0.0),
        ("<think>a</think> so <answer>b</answer>", 0.0),
        ("<think>a<answer></think>b</answer>", 0.0),
        ("b", 0.0),
    ],
)
def test_tags_in_their_order_are_the_form(text: str, score: float) -> None:
    assert opened("format")(ended(text), prompt()) == score


def test_a_pattern_of_ones_own_is_the_form() -> None:
    verify = opened("format", pattern=r"(?s)Reasoning:.*Answer: \d+")
    assert verify(ended("Reasoning: because\nAnswer: 4"), prompt()) == 1.0
    assert verify(ended("Reasoning: because\nAnswer: 4, or 5"), prompt()) == 0.0


@pytest.mark.parametrize(("tokens", "score"), [(1, 0.0), (80, 0.0), (90, -0.5), (99, -0.95), (100, -1.0), (500, -1.0)])
def test_long_responses_are_punished_as_in_dapo(tokens: int, score: float) -> None:
    assert opened("overlong", longest=100, buffer=20)(Response("", tokens=tokens), prompt()) == pytest.approx(score)
    own_limit = Response("", tokens=tokens, most_tokens=100)
    assert opened("overlong", buffer=20)(own_limit, prompt()) == pytest.approx(score)


# Where they may run.


@pytest.mark.parametrize(
    ("settings", "quick"),
    [
        ({"verifier": "exact_match"}, True),
        ({"verifier": "last_step"}, True),
        ({"verifier": "regular_expression"}, True),
        ({"verifier": "regular_expression", "pattern": "x"}, False),
        ({"verifier": "numeric"}, True),
        ({"verifier": "multiple_choice"}, True),
        ({"verifier": "countdown"}, True),
        ({"verifier": "sudoku"}, True),
        ({"verifier": "overlong", "buffer": 1}, True),
        ({"verifier": "format"}, True),
        ({"verifier": "format", "pattern": "x"}, False),
        ({"verifier": "math_verify"}, False),
        ({"verifier": "json_schema"}, False),
        ({"verifier": "reasoning_gym"}, False),
        ({"verifier": "function", "function": "a:b"}, False),
        ({"verifier": "service", "url": "http://a/"}, False),
    ],
)
def test_only_what_is_quick_for_certain_is_judged_in_the_collector(settings: dict[str, Any], quick: bool) -> None:
    assert is_quick(component(**settings)) == quick


@pytest.mark.parametrize("verifier", ["numeric", "multiple_choice", "countdown", "sudoku", "format", "exact_match"])
def test_what_runs_in_the_collector_is_quick_on_a_megabyte_of_brackets(verifier: str) -> None:
    verify = opened(verifier)
    puzzle = prompt("A" if verifier == "multiple_choice" else "1", numbers=[1], target=1, puzzle=BLANKED)
    began = time.process_time()
    for text in ("(" * MEGABYTE, "<answer>" + "(" * MEGABYTE + "</answer>", "<think>" * (MEGABYTE // 7)):
        assert verify(ended(text), puzzle) == 0.0
    assert time.process_time() - began < 1.0
