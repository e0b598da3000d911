"""Digests that tell whether two processes have the same model and tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from ais.contracts.model_identity import identify_model

FILES = {"config.json": '{"hidden_size": 8}', "tokenizer.json": "{}", "tokenizer_config.json": "[]"}


def write(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_text(content)
    return directory


def test_copies_of_a_directory_are_the_same_model_whatever_their_weights(tmp_path: Path) -> None:
    one = identify_model(write(tmp_path / "one", FILES))
    other = identify_model(write(tmp_path / "other", {**FILES, "model.safetensors": "later weights", "README": "x"}))
    assert one == other
    assert one.model_digest.startswith("blake3:")


@pytest.mark.parametrize(
    ("changed", "model_differs", "tokenizer_differs"),
    [
        ({"config.json": '{"hidden_size": 16}'}, True, False),
        ({"tokenizer.json": "{ }"}, False, True),
        ({"special_tokens_map.json": "{}"}, False, True),
        ({"tokenizer.json": "{}tokenizer_config.json 2\n[]", "tokenizer_config.json": ""}, False, True),
    ],
)
def test_each_digest_follows_its_own_files(
    changed: dict[str, str], model_differs: bool, tokenizer_differs: bool, tmp_path: Path
) -> None:
    one = identify_model(write(tmp_path / "one", FILES))
    other = identify_model(write(tmp_path / "other", {**FILES, **changed}))
    assert (one.model_digest != other.model_digest) is model_differs
    assert (one.tokenizer_digest != other.tokenizer_digest) is tokenizer_differs


def test_what_a_directory_lacks_has_an_empty_digest(tmp_path: Path) -> None:
    identity = identify_model(write(tmp_path / "weights-only", {"config.json": "{}"}))
    assert identity.model_digest
    assert identity.tokenizer_digest == ""
