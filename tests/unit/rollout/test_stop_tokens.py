"""What ends a response: every token that the model or its tokenizer calls its end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models

from ais.rollout.engine import ModelUnsupportedError
from ais.rollout.engines.stop_tokens import stop_token_ids

VOCABULARY = {"a": 0, "<|endoftext|>": 1, "<|im_end|>": 2, "</s>": 3}


def write_model(
    directory: Path, generation: Any = None, tokenizers: Any = None, special_tokens_map: Any = None
) -> Path:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="a"))
    tokenizer.add_special_tokens([AddedToken("<|far|>", special=True)])  # id 4, beyond the model's vocabulary
    tokenizer.save(str(directory / "tokenizer.json"))
    for name, value in (
        ("generation_config.json", {"eos_token_id": generation}),
        ("tokenizer_config.json", {"eos_token": tokenizers}),
        ("special_tokens_map.json", {"eos_token": special_tokens_map}),
    ):
        if value != {"eos_token_id": None}:
            (directory / name).write_text(json.dumps(value))
    return directory


def config(eos: Any) -> SimpleNamespace:
    return SimpleNamespace(eos_token_id=eos, vocab_size=4, pad_token_id=1)


@pytest.mark.parametrize(
    ("of_config", "generation", "tokenizers", "expected"),
    [
        (1, None, "<|endoftext|>", (1,)),
        (1, None, "<|im_end|>", (1, 2)),
        (1, [2, 1], "<|im_end|>", (1, 2)),
        (1, 3, None, (3,)),
        ([1, 3], None, {"content": "<|im_end|>"}, (1, 2, 3)),
        (None, None, "<|im_end|>", (2,)),
        (0, None, None, (0,)),
        ([], None, "</s>", (3,)),
        ([1, 1, 1], [1, 1], None, (1,)),
        (1, None, "nowhere in the vocabulary", (1,)),
        (1, None, "<|far|>", (1,)),
        ([1, 900], None, None, (1,)),
        (None, None, None, ()),
    ],
)
def test_the_models_and_the_tokenizers_ends_all_count(
    tmp_path: Path, of_config: Any, generation: Any, tokenizers: Any, expected: tuple[int, ...]
) -> None:
    assert stop_token_ids(write_model(tmp_path, generation, tokenizers), config(of_config)) == expected


def test_a_tokenizer_of_the_old_layout_is_asked_too(tmp_path: Path) -> None:
    write_model(tmp_path, special_tokens_map={"content": "<|im_end|>", "lstrip": False})
    assert stop_token_ids(tmp_path, config(1)) == (1, 2)


def test_a_difference_is_said_loudly_and_agreement_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop_token_ids(write_model(tmp_path, tokenizers="<|endoftext|>"), config(1))
    assert not caplog.records
    stop_token_ids(write_model(tmp_path, tokenizers="<|im_end|>"), config(1))
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert (warning.__dict__["models"], warning.__dict__["tokenizers"]) == ([1], 2)


def test_a_model_without_any_end_is_warned_about_with_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert stop_token_ids(tmp_path, config(None)) == ()
    assert "collector.sampling.stop_token_ids" in caplog.text


@pytest.mark.parametrize("wrong", ["</s>", True, [1, None], -1, {"id": 1}, 1.5, [list(range(3))]])
def test_an_eos_that_is_no_token_id_is_refused(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ModelUnsupportedError, match="eos_token_id"):
        stop_token_ids(write_model(tmp_path, generation=wrong), config(1))


def test_more_ends_than_a_request_may_have_are_refused(tmp_path: Path) -> None:
    many = SimpleNamespace(eos_token_id=list(range(17)), vocab_size=100)
    with pytest.raises(ModelUnsupportedError, match="up to 16"):
        stop_token_ids(tmp_path, many)


@pytest.mark.parametrize("file", ["generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_file_that_is_no_json_object_is_refused_by_name(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ModelUnsupportedError, match=file):
        stop_token_ids(tmp_path, config(1))


def test_a_tokenizer_that_cannot_be_read_leaves_the_models_own(tmp_path: Path) -> None:
    write_model(tmp_path, tokenizers="<|im_end|>")
    (tmp_path / "tokenizer.json").write_text("{")
    assert stop_token_ids(tmp_path, config(1)) == (1,)
