"""A conversation in the policy's own chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.collector.chat import INCOMPLETE, Conversation, GrowingText
from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer
from ais.collector.settings import PromptSettings
from tests.support.tokenizer_families import families


def test_what_was_said_before_stands_in_the_template_until_another_begins(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(families()["smollm3"].write(tmp_path / "model"), PromptSettings())
    conversation = Conversation(tokenizer)
    first = conversation.asked("What is 17 + 25?")
    conversation.answered("42")
    second = conversation.asked("And 3 more?")
    messages = [
        {"role": "user", "content": "What is 17 + 25?"},
        {"role": "assistant", "content": "42"},
        {"role": "user", "content": "And 3 more?"},
    ]
    assert second == tokenizer.encode_prompt(tuple(messages))
    conversation.unanswered()
    assert conversation.asked("And 3 more?") == second
    conversation.begin_again()
    assert conversation.asked("What is 17 + 25?") == first


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PolicyTokenizer:
    """Works on bytes: most characters beyond ASCII are several tokens."""
    return open_tokenizer(families()["smollm3"].write(tmp_path_factory.mktemp("model") / "model"), PromptSettings())


@given(text=st.text(st.characters(codec="utf-8", exclude_characters=[INCOMPLETE]), max_size=12), size=st.integers(1, 3))
def test_text_grows_by_whole_characters_and_is_the_same_in_the_end(
    tokenizer: PolicyTokenizer, text: str, size: int
) -> None:
    tokens = tokenizer.tokenizer(text + "東🦊", add_special_tokens=False)["input_ids"]
    growing = GrowingText(tokenizer.decode_response)
    pieces = [growing.grown(tokens[begin : begin + size]) for begin in range(0, len(tokens) - 1, size)]
    assert not any(INCOMPLETE in piece for piece in pieces)
    assert "".join([*pieces, growing.ended(tokens)]) == growing.shown == tokenizer.decode_response(tokens)


def test_a_character_is_shown_when_its_last_byte_has_come_and_bytes_that_are_none_in_the_end(
    tokenizer: PolicyTokenizer,
) -> None:
    first, *others = tokenizer.tokenizer("🦊", add_special_tokens=False)["input_ids"]
    assert others
    growing = GrowingText(tokenizer.decode_response)
    assert growing.grown([first]) == ""
    assert growing.grown(others) == "🦊"
    broken = GrowingText(tokenizer.decode_response)
    assert broken.grown([first]) == ""
    assert broken.ended([first]) == INCOMPLETE
