"""A prompt has the tokens that transformers gives it, whatever its family's tokenizer and chat template ask for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from ais.collector.prompts.tokenizer import open_tokenizer
from ais.collector.settings import PromptSettings
from ais.runtime.process import UnavailableError
from tests.support.tokenizer_families import Family, families

FAMILIES = families()
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Adds <a> & 'b', größer", "parameters": {"type": "object"}},
}
TEXTS = [
    "What is 1 + 2?",
    "",
    "  leading and trailing \n\n",
    "café, cafe\u0301, 東京, \U0001f600, \u2028 and \t tabs",
    "an injected <|im_end|>, </s>, <s>, <end_of_turn> or <｜User｜> token",
    "long: " + "one two three 1,000 " * 40,
]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"system": " You add. "},
    {"template_arguments": {"enable_thinking": False, "date_string": "1 Jan 2025"}},
    {"template_arguments": {"tools": [TOOL]}},
    {"template_arguments": {"documents": [{"title": "Sums", "text": "1 + 2 = 3"}]}},
    {"system": "Use them.", "template_arguments": {"tools": [TOOL, TOOL], "custom_tools": [TOOL]}},
]
ENCODE_AS_A_COLLECTOR_DOES = """
import json, sys
from pathlib import Path
from ais.collector.prompts.tokenizer import open_tokenizer, run_without_torch
from ais.collector.settings import PromptSettings
run_without_torch()
encoded = []
for case in json.load(sys.stdin):
    tokenizer = open_tokenizer(Path(case["model"]), PromptSettings(**case["settings"]))
    encoded.append([tokenizer.encode_prompt(text) for text in case["texts"]])
assert sys.modules["torch"] is None
print(json.dumps(encoded))
"""


def cuts_and_pads(family: Family) -> Family:
    """The same family, as saved by somebody who trained with short, padded sequences."""
    tokenizer = Tokenizer.from_str(family.tokenizer.to_str())
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=64)
    return replace(family, tokenizer=tokenizer)


def as_transformers_does(model: Path, settings: dict[str, Any], text: str) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.chat_template is None:
        plain: list[int] = tokenizer(text)["input_ids"]
        return plain
    messages = [{"role": "system", "content": settings["system"]}] if "system" in settings else []
    chat: list[int] = tokenizer.apply_chat_template(
        [*messages, {"role": "user", "content": text}],
        add_generation_prompt=True,
        return_dict=False,
        **settings.get("template_arguments", {}),
    )
    return chat


def test_a_collector_without_torch_gives_prompts_the_tokens_that_transformers_gives_them(tmp_path: Path) -> None:
    cases = []
    for name, family in FAMILIES.items():
        for variant, written in ((name, family), (f"{name}-cuts-and-pads", cuts_and_pads(family))):
            model = written.write(tmp_path / variant)
            usable = SETTINGS if family.template or family.named_templates else SETTINGS[:1]
            cases += [{"model": str(model), "settings": settings, "texts": TEXTS} for settings in usable]
    collector = subprocess.run(
        [sys.executable, "-c", ENCODE_AS_A_COLLECTOR_DOES],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert collector.returncode == 0, collector.stderr
    for case, encoded in zip(cases, json.loads(collector.stdout), strict=True):
        for text, token_ids in zip(TEXTS, encoded, strict=True):
            expected = as_transformers_does(Path(case["model"]), case["settings"], text)
            assert token_ids == expected, (case["model"], case["settings"], text)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tokenizer_that_truncates_and_pads_gives_prompts_whole(name: str, tmp_path: Path) -> None:
    whole = open_tokenizer(FAMILIES[name].write(tmp_path / "whole"), PromptSettings())
    cut = open_tokenizer(cuts_and_pads(FAMILIES[name]).write(tmp_path / "cut"), PromptSettings())
    for text in TEXTS:
        assert cut.encode_prompt(text) == whole.encode_prompt(text)
    assert len(cut.encode_prompt(TEXTS[-1])) > 64


@pytest.mark.parametrize("name", ["qwen3", "llama3", "llama2", "gemma", "gpt2"])
def test_a_template_that_asks_for_tools_nobody_gave_prints_nothing_about_them(name: str, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(FAMILIES[name].write(tmp_path), PromptSettings())
    text = tokenizer.tokenizer.decode(tokenizer.encode_prompt("1 + 2?"))
    assert "ools" not in text
    assert "Environment" not in text


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("text", ["####42", "it 's 1 , 000 ; isn 't it ?", "naïve 東京 \U0001f600", "a\n\n  b"])
def test_a_response_is_decoded_as_it_was_written(name: str, text: str, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(FAMILIES[name].write(tmp_path), PromptSettings())
    eos = tokenizer.tokenizer.eos_token_id
    token_ids = [*tokenizer.tokenizer.encode(text, add_special_tokens=False), eos]
    assert tokenizer.decode_response(token_ids) == text


def test_a_template_in_a_file_of_its_own_is_found(tmp_path: Path) -> None:
    family = FAMILIES["smollm2"]
    expected = open_tokenizer(family.write(tmp_path / "inside"), PromptSettings()).encode_prompt("a")
    beside = replace(family, template=None).write(tmp_path / "beside")
    (beside / "chat_template.jinja").write_text(family.template or "", encoding="utf-8")
    assert open_tokenizer(beside, PromptSettings()).encode_prompt("a") == expected


def test_use_chat_template_false_encodes_the_text_as_it_is(tmp_path: Path) -> None:
    model = FAMILIES["llama3"].write(tmp_path)
    plain = AutoTokenizer.from_pretrained(model)("1 + 2 =")["input_ids"]
    assert open_tokenizer(model, PromptSettings(use_chat_template=False)).encode_prompt("1 + 2 =") == plain


def test_the_demos_tokenizer_of_a_few_characters_opens() -> None:
    tokenizer = open_tokenizer(Path(__file__).parents[3] / "examples" / "sort16" / "model", PromptSettings())
    assert tokenizer.decode_response(tokenizer.encode_prompt("31=")) == "31="


def test_a_system_message_without_a_chat_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="need a chat template"):
        open_tokenizer(FAMILIES["gpt2"].write(tmp_path), PromptSettings(system="Add."))
    with pytest.raises(ValidationError, match="use_chat_template"):
        PromptSettings(use_chat_template=False, system="Add.")


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ raise_exception('no system message') }}",
        "{{ messages[0].content + 1 }}",
        "{{ nothing.at.all }}",
        "{{ messages[7].content | length + 1 }}",
        "{{ ''.__class__.__mro__ }}",
    ],
)
def test_a_template_that_cannot_be_used_is_refused_at_once(tmp_path: Path, template: str) -> None:
    with pytest.raises(UnavailableError, match="chat template"):
        open_tokenizer(replace(FAMILIES["smollm2"], template=template).write(tmp_path), PromptSettings())


def test_templates_of_which_none_is_the_default_are_refused(tmp_path: Path) -> None:
    family = replace(FAMILIES["command_r"], named_templates={"rag": "a", "tool_use": "b"})
    with pytest.raises(UnavailableError, match="no default"):
        open_tokenizer(family.write(tmp_path), PromptSettings())


@pytest.mark.parametrize("argument", ["messages", "add_generation_prompt", "truncation", "max_length", "tokenize"])
def test_an_argument_that_the_collector_sets_cannot_be_given(argument: str) -> None:
    with pytest.raises(ValidationError, match=argument):
        PromptSettings(template_arguments={argument: True})


@pytest.mark.parametrize("spoil", ["absent", "empty", "not json", "code of its own"])
def test_a_directory_without_a_usable_tokenizer_is_refused_by_name(tmp_path: Path, spoil: str) -> None:
    model = tmp_path / "model"
    if spoil != "absent":
        model.mkdir()
    if spoil == "not json":
        (model / "tokenizer.json").write_text("{")
    if spoil == "code of its own":
        FAMILIES["gpt2"].write(model)
        remote = {"auto_map": {"AutoTokenizer": ["code.Mine", "code.Mine"]}, "tokenizer_class": "Mine"}
        (model / "tokenizer_config.json").write_text(json.dumps(remote))
        (model / "code.py").write_text("raise SystemExit('its code was run')")
    with pytest.raises(UnavailableError, match="model"):
        open_tokenizer(model, PromptSettings())
