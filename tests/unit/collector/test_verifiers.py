"""Verifiers judge what docs/data.md says they judge."""

from __future__ import annotations

import pytest

from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.rewards.numbers import number_in
from ais.collector.rewards.response import Verifier
from ais.collector.settings import TaskSettings
from ais.contracts.sampling import FinishReason
from tests.support.judges import cut_off, ended, task_verifier

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def answered_by(answer: str) -> Prompt:
    return Prompt(prompt_id="p", text="q", answer=answer)


def regular_expression(pattern: str | None = None) -> Verifier:
    return task_verifier(TaskSettings(verifier="regular_expression", pattern=pattern))


def test_exact_match_wants_the_answer_and_an_end() -> None:
    verify = task_verifier(TaskSettings())
    assert verify(ended("123"), answered_by("123")) == 1.0
    assert verify(ended(" 123\n"), answered_by("123")) == 1.0
    assert verify(cut_off("123"), answered_by("123")) == 0.0
    assert verify(ended("1234"), answered_by("123")) == 0.0
    assert verify(ended("123.0"), answered_by("123")) == 0.0


def test_a_regular_expression_compares_its_last_capture() -> None:
    verify = regular_expression(r"#### (\d+)")
    assert verify(cut_off("#### 1 no, #### 42"), answered_by("42")) == 1.0
    assert verify(cut_off("#### 42 no, #### 1"), answered_by("42")) == 0.0
    assert verify(ended("42"), answered_by("42")) == 0.0


@pytest.mark.parametrize(
    ("response", "reward"),
    [("#### 42", 1.0), (r"so \boxed{42}", 1.0), (r"#### 1 and \boxed{42}", 1.0), (r"\boxed{42} and #### 1", 0.0)],
)
def test_the_alternative_that_matched_counts_whichever_group_it_has(response: str, reward: float) -> None:
    verify = regular_expression(r"####\s*(\S+)|\\boxed\{(.*?)\}")
    assert verify(ended(response), answered_by("42")) == reward


def test_a_pattern_without_groups_compares_the_whole_match() -> None:
    assert regular_expression(r"\d+$")(ended("first 7, then 42"), answered_by("42")) == 1.0


def test_a_group_that_took_no_part_is_no_answer() -> None:
    assert regular_expression(r"end(\d)?")(ended("the end"), answered_by("None")) == 0.0


@pytest.mark.parametrize("answer", ["1000", "1,000", "1000.0", "1e3", " $1,000 "])
@pytest.mark.parametrize("given", ["1000", "1,000", "1000.", "$1000", "1,000.00", "$1,000.", "+1000", "1000$"])
def test_a_number_is_compared_by_its_value(given: str, answer: str) -> None:
    assert regular_expression()(ended(f"#### {given}"), answered_by(answer)) == 1.0


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("1001", "1000"),
        ("-72", "72"),
        ("1,00", "100"),
        ("1.000", "1000"),
        ("72x", "72"),
        ("seventy-two", "72"),
        ("0072", "72"),
        ("72", "0072"),
        ("1/2", "0.5"),
        ("nan", "0"),
        ("9" * 5000, "9"),
        ("1e999999999", "1"),
    ],
)
def test_another_value_or_no_number_is_wrong(given: str, answer: str) -> None:
    assert regular_expression()(ended(f"#### {given}"), answered_by(answer)) == 0.0


@pytest.mark.parametrize("answer", ["0012", "x = 3", "A", "1/2", "12:30"])
def test_what_is_no_number_is_compared_letter_by_letter(answer: str) -> None:
    verify = regular_expression("#### (.*)")
    assert verify(ended(f"#### {answer}"), answered_by(answer)) == 1.0
    assert verify(ended(f"#### {answer}."), answered_by(answer)) == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72.", "72"),
        ("$72", "72"),
        ("-$1,234.50", "-1234.5"),
        ("$-72", "-72"),
        ("$72$", "72"),
        ("72%.", "72"),
        (r"72\%", "72"),
        ("\N{MINUS SIGN}3", "-3"),
        (".5", "0.5"),
        ("€3.20", "3.2"),
        ("12,345,678", "12345678"),
    ],
)
def test_numbers_as_people_write_them_are_read(text: str, value: str) -> None:
    read = number_in(text)
    assert read is not None
    assert read == type(read)(value)


@pytest.mark.parametrize("text", ["", "-", ".", "$", "%", "1,0000", "1.2.3", "7 2", "٣", "1_000", "0x10", "inf", "1e"])
def test_what_only_looks_like_a_number_is_none(text: str) -> None:
    assert number_in(text) is None


def test_a_pattern_that_does_not_compile_is_refused() -> None:
    with pytest.raises(TaskError, match="not a regular expression"):
        regular_expression("(")
