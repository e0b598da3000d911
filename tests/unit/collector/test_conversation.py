"""A conversation in the policy's own chat template."""

from __future__ import annotations

from pathlib import Path

from ais.collector.chat import Conversation
from ais.collector.prompts.tokenizer import open_tokenizer
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
