"""The demo tokenizer and the warm start."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from ais.trainer.demo.demo_model import BOS_ID, CHARACTERS, EOS_ID, demo_tokenizer, save_tokenizer
from ais.trainer.demo.warmstart import (
    IGNORED,
    DemonstrationError,
    batches,
    learning_rate_share,
    read_demonstrations,
    warm_start,
)


def lines(*pairs: tuple[str, str]) -> io.StringIO:
    return io.StringIO("".join(json.dumps({"prompt": prompt, "answer": answer}) + "\n" for prompt, answer in pairs))


def test_the_saved_tokenizer_loads_in_both_libraries(tmp_path: Path) -> None:
    save_tokenizer(demo_tokenizer(), tmp_path)
    expected = [BOS_ID, *(CHARACTERS.index(character) for character in "31=")]
    assert AutoTokenizer.from_pretrained(tmp_path)("31=")["input_ids"] == expected
    bare = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert bare.encode("31=").ids == expected
    assert bare.decode([*expected, EOS_ID]) == "31="


def test_a_character_outside_the_vocabulary_is_an_error_that_names_the_line() -> None:
    with pytest.raises(DemonstrationError, match="line 2"):
        read_demonstrations(lines(("1=", "1"), ("x=", "1")), demo_tokenizer())


def test_only_the_answer_and_its_end_are_trained() -> None:
    tokenizer = demo_tokenizer()
    demonstrations = read_demonstrations(lines(("321=", "123"), ("1=", "1")), tokenizer)
    tokens, labels = next(batches(demonstrations, size=2, seed=0))
    for row in range(2):
        trained = labels[row][labels[row] != IGNORED].tolist()
        answer = trained[:-1]
        assert trained[-1] == EOS_ID
        assert tokenizer.decode(tokens[row].tolist()).startswith(("321=123", "1=1"))
        assert tokenizer.decode(answer) in ("123", "1")


def test_the_learning_rate_warms_up_and_decays_to_five_per_cent() -> None:
    shares = [learning_rate_share(step, 600) for step in range(600)]
    assert shares[0] == pytest.approx(1 / 50)
    assert max(shares) == pytest.approx(shares[49])
    assert shares[-1] == pytest.approx(0.05, abs=0.002)


def test_a_warm_start_learns_and_saves_a_model_that_loads(tmp_path: Path) -> None:
    tokenizer = demo_tokenizer()
    demonstrations = read_demonstrations(lines(*((f"{digit}=", f"{digit}{digit}") for digit in range(10))), tokenizer)
    losses = [
        warm_start(demonstrations, tokenizer, tmp_path, steps=steps, batch_size=10, learning_rate=3e-3, seed=0)
        for steps in (1, 40)
    ]
    assert losses[1] < 0.5 * losses[0]
    assert AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters() == 101_568
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1_000_000
