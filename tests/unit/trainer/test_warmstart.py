"""The small policies' tokenizer and warm start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from ais.launcher.settings import WarmStartSettings
from ais.runtime.reading import choices_of, field_types
from ais.trainer.demo.demo_model import (
    ALPHABETS,
    BOS_ID,
    CALL,
    CHARACTERS,
    EOS_ID,
    FAMILIES,
    SIZES,
    demo_model,
    demo_tokenizer,
    save_tokenizer,
)
from ais.trainer.demo.warmstart import (
    IGNORED,
    DemonstrationError,
    Recipe,
    TargetMissedError,
    accuracy,
    learning_rate_share,
    open_progress,
    padded,
    read_demonstrations,
    save,
    warm_start,
)
from ais.trainer.policy.policy import Policy

DOUBLED = [(f"{digit}=", f"{digit}{digit}") for digit in range(10)]


def lines(*pairs: tuple[str, str]) -> list[str]:
    return [json.dumps({"prompt": prompt, "answer": answer, "clean": answer}) for prompt, answer in pairs]


@pytest.fixture
def progress() -> Iterator[Progress]:
    with open_progress() as opened:
        yield opened


def test_the_saved_tokenizer_loads_in_both_libraries(tmp_path: Path) -> None:
    save_tokenizer(demo_tokenizer(), tmp_path)
    expected = [BOS_ID, *(CHARACTERS.index(character) for character in "31=")]
    assert AutoTokenizer.from_pretrained(tmp_path)("31=")["input_ids"] == expected
    bare = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert bare.encode("31=").ids == expected
    assert bare.decode([*expected, EOS_ID]) == "31="


def test_a_call_has_two_tokens_around_its_expression_and_any_text_can_be_told(tmp_path: Path) -> None:
    tokenizer = demo_tokenizer("tool_calls")
    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    pieces = ALPHABETS["tool_calls"]
    assert len(set(pieces)) == len(pieces) == demo_model(0, "tiny", "tool_calls").config.vocab_size == 100
    call = f"{CALL[0]}1+2{CALL[1]}"
    tokens = loaded(call, add_special_tokens=False)["input_ids"]
    assert [pieces[token] for token in tokens] == [CALL[0], *"1+2", CALL[1]]
    said = f'error: TypeError: {{"a"}} is no call!\n{call}'
    assert loaded.decode(loaded(said)["input_ids"], skip_special_tokens=True) == said


@pytest.mark.parametrize("bad", [("x=", "1"), ("1=", "1" * 2100)])
def test_a_demonstration_that_the_policy_cannot_write_is_an_error_that_names_the_line(bad: tuple[str, str]) -> None:
    with pytest.raises(DemonstrationError, match="line 2"):
        list(read_demonstrations(lines(("1=", "1"), bad), demo_tokenizer()))


def test_only_the_answer_and_its_end_are_trained() -> None:
    tokenizer = demo_tokenizer()
    demonstrations = read_demonstrations(lines(("321=", "123"), ("1=", "1")), tokenizer)
    tokens, labels = padded([(one.prompt, one.answer) for one in demonstrations])
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


def test_a_warm_start_ends_when_the_policy_is_right_as_often_as_is_wanted(tmp_path: Path, progress: Progress) -> None:
    tokenizer = demo_tokenizer()
    model = warm_start(read_demonstrations(cycle(lines(*DOUBLED)), tokenizer), Recipe(batch_size=10), progress)
    done = progress.tasks[0].completed
    assert done < 600
    assert accuracy(model, list(read_demonstrations(lines(*DOUBLED), tokenizer))) >= 0.3
    save(model, tokenizer, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert loaded.num_parameters() == 101_568
    assert accuracy(loaded, list(read_demonstrations(lines(*DOUBLED), tokenizer))) > 0.2
    assert sum(file.stat().st_size for file in (tmp_path / "model").iterdir()) < 1_000_000
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_warm_start_whose_steps_are_used_up_says_how_far_it_came(progress: Progress) -> None:
    source = read_demonstrations(cycle(lines(*DOUBLED)), demo_tokenizer())
    with pytest.raises(TargetMissedError, match=r"after 2 steps .* launcher\.warm_start\.steps"):
        warm_start(source, Recipe(batch_size=10, steps=2, accuracy=0.9), progress)


def test_demonstrations_that_end_too_early_are_an_error(progress: Progress) -> None:
    with pytest.raises(DemonstrationError, match="ended in step 1"):
        warm_start(read_demonstrations(lines(*DOUBLED), demo_tokenizer()), Recipe(batch_size=10), progress)


def test_every_size_that_the_settings_offer_is_there_and_fits_into_twelve_megabytes() -> None:
    assert set(choices_of(field_types(WarmStartSettings)["size"])) == set(SIZES)
    millions = {name: demo_model(0, name).num_parameters() / 1e6 for name in SIZES}
    assert millions == pytest.approx({"tiny": 0.1, "small": 0.3, "medium": 1.3, "large": 3.2}, rel=0.1)
    assert 2 * max(millions.values()) < 12


def test_every_family_that_the_settings_offer_is_there_and_the_hybrid_has_both_kinds_of_layers() -> None:
    assert set(choices_of(field_types(WarmStartSettings)["family"])) == set(FAMILIES)
    model = demo_model(0, family="qwen3_5")
    assert model.config.layer_types == ["linear_attention", "full_attention"]
    again = demo_model(0, family="qwen3_5").state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())


def test_a_hybrid_policy_is_scored_alike_alone_and_beside_longer_sequences() -> None:
    """Its state runs over a sequence from left to right: padding must not get in."""
    policy = Policy(demo_model(1, family="qwen3_5"), compute_dtype=torch.float32)
    short, long = [1, 5, 6, 7, 13], [1, *range(3, 20), 13]
    (alone,) = policy.sequence_logprobs([short])
    beside, _ = policy.sequence_logprobs([short, long])
    assert beside == pytest.approx(alone, abs=1e-5)
