"""Prompts in a chat template have the tokens that transformers would give them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ais.collector.prompts.tokenizer import open_tokenizer
from ais.collector.settings import PromptSettings
from ais.runtime.process import UnavailableError

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|start|>system
You are helpful<|end|>
' }}{% endif %}{{'<|start|>' + message['role'] + '
' + message['content'] + '<|end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant
' }}{% endif %}"""
"""That of SmolLM2, but for its tokens' names."""

BLOCKS = """{{- bos_token }}
{%- set state = namespace(first=true) %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- continue %}
    {%- endif %}
    {% if state.first %}
        {%- set state.first = false %}
    {%- endif %}
    {{- '<|start|>' + message.role + '\\n' + message.content | trim + '<|end|>\\n' }}
{%- endfor %}
{{- {"ä": 1} | tojson }}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
"""What Qwen3's and others' templates are made of: namespaces, loop and white space control, filters, arguments."""


def write_tokenizer(directory: Path, template: str | None) -> Path:
    """A tokenizer of bytes that puts `<|start|>` before every plain text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|start|>", special=True), AddedToken("<|end|>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", tokenizer.token_to_id("<|start|>"))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|start|>", eos_token="<|end|>")
    fast.chat_template = template
    fast.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("template", [CHATML, BLOCKS])
@pytest.mark.parametrize("system", ["", " You add. "])
@pytest.mark.parametrize("arguments", [{}, {"enable_thinking": False}])
def test_a_chat_prompt_has_the_tokens_transformers_gives_it(
    tmp_path: Path, template: str, system: str, arguments: dict[str, object]
) -> None:
    directory = write_tokenizer(tmp_path, template)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "What is 1 + 2?\n"})
    expected = AutoTokenizer.from_pretrained(directory).apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, **arguments
    )
    tokenizer = open_tokenizer(directory, PromptSettings(system=system, template_arguments=arguments))
    assert tokenizer.encode_prompt("What is 1 + 2?\n") == expected


def test_a_template_inside_the_tokenizers_configuration_is_found(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path, BLOCKS)
    expected = open_tokenizer(directory, PromptSettings()).encode_prompt("a")
    AutoTokenizer.from_pretrained(directory).save_pretrained(directory, save_jinja_files=False)
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    assert "chat_template" in (directory / "tokenizer_config.json").read_text()
    assert open_tokenizer(directory, PromptSettings()).encode_prompt("a") == expected


def test_without_a_template_the_text_is_encoded_as_it_is(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path, CHATML)
    plain = AutoTokenizer.from_pretrained(directory)("1 + 2 =")["input_ids"]
    assert open_tokenizer(directory, PromptSettings(use_chat_template=False)).encode_prompt("1 + 2 =") == plain
    (directory / "chat_template.jinja").unlink()
    assert open_tokenizer(directory, PromptSettings()).encode_prompt("1 + 2 =") == plain


def test_the_demos_tokenizer_of_a_few_characters_opens() -> None:
    tokenizer = open_tokenizer(Path(__file__).parents[3] / "examples" / "sort16" / "model", PromptSettings())
    assert tokenizer.decode_response(tokenizer.encode_prompt("31=")) == "31="


def test_a_response_is_decoded_without_special_tokens(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(write_tokenizer(tmp_path, CHATML), PromptSettings())
    tokens = tokenizer.tokenizer.encode("3<|end|>", add_special_tokens=False).ids
    assert tokenizer.decode_response(tokens) == "3"


def test_a_system_message_without_a_chat_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="need a chat template"):
        open_tokenizer(write_tokenizer(tmp_path, None), PromptSettings(system="Add."))
    with pytest.raises(ValidationError, match="use_chat_template"):
        PromptSettings(use_chat_template=False, system="Add.")


@pytest.mark.parametrize("template", ["{% for %}", "{{ raise_exception('no system message') }}"])
def test_a_template_that_cannot_be_used_is_refused_at_once(tmp_path: Path, template: str) -> None:
    with pytest.raises(UnavailableError, match="chat template"):
        open_tokenizer(write_tokenizer(tmp_path, template), PromptSettings())
