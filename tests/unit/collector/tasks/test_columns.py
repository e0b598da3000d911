"""A row becomes a prompt by the columns that the settings name."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.settings.sources import ColumnSettings
from ais.collector.tasks.tables.prompts import PromptReader
from ais.collector.tasks.tables.template import filled

ROW = {
    "question": "1 + 1?",
    "solution": {"text": "so it is\n#### 2", "level": {"name": "easy"}},
    "nums": [1, 1],
    "uid": 7,
    "odd.name": "o",
    "when": datetime.date(2026, 1, 2),
    "nothing": None,
}


def prompt(row: dict[str, Any], needs_answer: bool = True, **columns: Any) -> Prompt:
    return PromptReader.of(ColumnSettings(**columns), "here", needs_answer).prompt(row, "default")


def test_columns_may_have_any_name_and_lie_in_objects() -> None:
    read = prompt(
        ROW,
        prompt="question",
        answer="solution.text",
        answer_pattern=r"####\s*(.+)",
        id="uid",
        metadata={"level": "solution.level.name", "numbers": "nums", "odd": "odd.name", "when": "when"},
    )
    assert read == Prompt(
        prompt_id="7",
        text="1 + 1?",
        answer="2",
        metadata={"level": "easy", "numbers": [1, 1], "odd": "o", "when": "2026-01-02"},
        source="here",
    )


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Solve {question}", "Solve 1 + 1?"),
        (r"{question} Answer in \boxed{}, not \frac{1}{2}.", r"1 + 1? Answer in \boxed{}, not \frac{1}{2}."),
        ("{nums} {solution.level.name} {uid}", "[1, 1] easy 7"),
        ("write {{question}} or { question }", "write {question} or { question }"),
    ],
)
def test_a_template_is_filled_from_columns_and_leaves_other_braces_alone(template: str, text: str) -> None:
    assert filled(template, ROW) == text
    assert prompt(ROW, needs_answer=False, answer="", template=template).text == text


def test_a_list_of_messages_is_a_chat_and_its_last_user_message_the_text() -> None:
    chat = [
        {"role": "system", "content": "Be brief.", "name": None},
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "2?"},
    ]
    read = prompt({"prompt": chat, "answer": 2})
    assert read.text == "2?"
    assert read.question == read.messages == ({"role": "system", "content": "Be brief."}, *chat[1:])


@pytest.mark.parametrize(
    ("value", "text"),
    [([1, "a"], '[1, "a"]'), ({"a": None}, '{"a": null}'), (True, "true"), (None, "null"), ("x", '"x"')],
)
def test_an_answer_may_be_any_json_where_the_settings_say_so(value: object, text: str) -> None:
    assert prompt({"prompt": "q", "answer": value}, answer_is_json=True).answer == text


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"prompt": "questions"}, "questions: the key is missing; there is "),
        ({"prompt": "solution.txt"}, "solution.txt: the key is missing in solution; there is level, text"),
        ({"prompt": "question.text"}, "question.text: the key is missing in question$"),
        ({"prompt": "nothing"}, "nothing: expected text, or a list of messages, got null"),
        ({"prompt": "question", "answer": "nums"}, r"nums: expected text or a finite number, got \[1, 1\]"),
        (
            {"prompt": "question", "answer": "question", "answer_pattern": "####"},
            "question: answer_pattern matches nothing",
        ),
        ({"template": "{nothing}"}, "nothing: expected something for the template, got null"),
        ({"template": "{nowhere}"}, "nowhere: the key is missing"),
        ({"prompt": "question", "answer": "uid", "id": "nums"}, "nums: expected text or a whole number"),
        ({"prompt": "question", "answer": "uid", "metadata": {"a": "b"}}, "b: the key is missing"),
    ],
)
def test_what_a_row_lacks_is_named(columns: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        prompt(ROW, **columns)


@pytest.mark.parametrize(
    ("chat", "complaint"),
    [
        ([], r"prompt: must not be empty, got \[\]"),
        (["hello"], 'prompt.0: expected a message with role and content, got "hello"'),
        ([{"role": "user"}], "prompt.0.content: expected text, got null"),
        ([{"role": "user", "content": "a"}, {"content": "b"}], "prompt.1.role: expected text, got null"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "the last message must be one to answer",
        ),
        ([{"role": "user", "content": "a\ud800"}], "prompt: half of a surrogate pair"),
    ],
)
def test_a_chat_that_cannot_be_gone_on_with_is_refused(chat: list[Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        prompt({"prompt": chat, "answer": 1})


def test_metadata_that_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match=r"metadata.a: cannot be written as JSON"):
        prompt({"prompt": "q", "answer": "a", "metadata": {"a": b"bytes"}})
    with pytest.raises(ValueError, match=r"metadata.a: cannot be written as JSON"):
        prompt({"prompt": "q", "answer": "a", "metadata": {"a": float("nan")}})


def test_an_answer_pattern_that_does_not_compile_is_refused() -> None:
    with pytest.raises(TaskError, match="is not a regular expression"):
        prompt(ROW, answer_pattern="(")
