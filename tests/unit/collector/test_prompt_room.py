"""Whether a prompt leaves the replicas room for an answer, counted in the policy's own tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ais.collector.prompts.room import PromptRoom, context_of
from ais.collector.prompts.tokenizer import open_tokenizer
from ais.collector.settings import PromptSettings
from tests.support.tokenizer_families import families


@pytest.mark.parametrize("name", ["qwen3", "llama2", "gpt2"])
@pytest.mark.parametrize("letters", ["a", "7 ", "é", "東", "\U0001f600"])
def test_a_prompt_fits_when_its_tokens_leave_room_for_one_more(tmp_path: Path, name: str, letters: str) -> None:
    tokenizer = open_tokenizer(families()[name].write(tmp_path), PromptSettings())
    text = letters * 50
    tokens = len(tokenizer.encode_prompt(text))
    assert PromptRoom(tokenizer, tokens + 1).fits(text)
    assert not PromptRoom(tokenizer, tokens).fits(text)
    assert PromptRoom(tokenizer, 10 * tokens).fits(text)
    assert PromptRoom(tokenizer, None).fits(text)


@pytest.mark.parametrize(
    ("own", "replicas", "expected"),
    [(512, 1024, 512), (2048, 1024, 1024), (512, None, 512), (None, 64, 64), (None, None, None)],
)
def test_the_shorter_context_counts(
    tmp_path: Path, own: int | None, replicas: int | None, expected: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": own} if own else {}))
    assert context_of(tmp_path, replicas) == expected


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_model_whose_configuration_cannot_be_read_leaves_the_replicas(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert context_of(tmp_path, 64) == 64
