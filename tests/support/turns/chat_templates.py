"""Chat templates for conversations, each with what is peculiar to a well-known model family. They are ours."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer
from ais.collector.settings import PromptSettings
from tests.support.tokenizer_families import Family, byte_level

_SPECIAL = ["<|end|>", "<|begin|>", "<|role|>", "[INST]", "[/INST]", "<think>", "</think>"]


class Template(NamedTuple):
    """A template, and why episodes cannot have it: words of the refusal; empty where they can."""

    text: str
    refused: str = ""


def _each(turn: str, begin: str = "", ask: str = "<|role|>assistant\\n", end: str = "") -> str:
    return (
        begin
        + "{% for message in messages %}"
        + turn
        + "{% endfor %}{% if add_generation_prompt %}{{ '"
        + ask
        + "' }}{% endif %}"
        + end
    )


_PLAIN = "{{ '<|role|>' + message['role'] + '\\n' + message['content'] + '<|end|>\\n' }}"
_STRIPPED = (
    "{% if message['role'] == 'assistant' and not loop.last %}"
    "{{ '<|role|>assistant\\n' + message['content'].split('</think>')[-1].lstrip('\\n') + '<|end|>\\n' }}"
    "{% else %}" + _PLAIN + "{% endif %}"
)

TEMPLATES = {
    "plain turns, as ChatML": Template(_each(_PLAIN)),
    "a system message of its own, as Qwen2.5": Template(
        _each(
            _PLAIN,
            begin="{% if messages[0]['role'] != 'system' %}{{ '<|role|>system\\nYou help.<|end|>\\n' }}{% endif %}",
        )
    ),
    "a date and trimmed turns, as Llama 3": Template(
        _each(
            "{{ '<|role|>' + message['role'] + '\\n\\n' + message['content'] | trim + '<|end|>' }}",
            begin="{{ bos_token + 'Today: ' + strftime_now('%d %b %Y') + '\\n' }}",
            ask="<|role|>assistant\\n\\n",
        )
    ),
    "the policy called model, as Gemma": Template(
        _each(
            "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
            "{{ '<|role|>' + role + '\\n' + message['content'] | trim + '<|end|>\\n' }}",
            begin="{{ bos_token }}",
            ask="<|role|>model\\n",
        )
    ),
    "an end of its own, as Phi-3": Template(
        _each(_PLAIN, end="{% if not add_generation_prompt %}{{ eos_token }}{% endif %}")
    ),
    "instructions in brackets, as Mistral": Template(
        _each(
            "{% if message['role'] == 'assistant' %}{{ message['content'] + '<|end|>' }}"
            "{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}",
            begin="{{ bos_token }}",
            ask="",
        )
    ),
    "roles in capitals, as Command R": Template(
        _each(
            "{{ '<|role|>' + message['role'] | upper + ':' + message['content'] + '<|end|>' }}",
            ask="<|role|>ASSISTANT:",
        )
    ),
    "tools told in turns of a user, as Hermes": Template(
        _each(
            "{% if message['role'] == 'tool' %}{{ '<|role|>user\\n<tool_response>' + message['content'] "
            "+ '</tool_response><|end|>\\n' }}{% else %}" + _PLAIN + "{% endif %}",
            begin="{% if tools %}{{ '<|role|>system\\n' }}{{ tools | tojson }}{{ '<|end|>\\n' }}{% endif %}",
        )
    ),
    "calls in XML, as Qwen3-Coder": Template(
        _each(
            "{% if message['role'] == 'tool' %}{{ '<|role|>user\\n<tool_response>\\n' + message['content'] "
            "+ '\\n</tool_response>\\n<|end|>\\n' }}{% elif message.tool_calls %}"
            "{{ '<|role|>assistant\\n' + message['content'] }}{% for call in message.tool_calls %}"
            "{{ '<tool_call>\\n<function=' + call.function.name + '>\\n' }}"
            "{% for name, value in call.function.arguments.items() %}"
            "{{ '<parameter=' + name + '>\\n' }}{{ value }}{{ '\\n</parameter>\\n' }}{% endfor %}"
            "{{ '</function>\\n</tool_call>' }}{% endfor %}{{ '<|end|>\\n' }}{% else %}" + _PLAIN + "{% endif %}",
            begin="{% if tools %}{{ '<|role|>system\\n' }}{{ tools | tojson }}{{ '<|end|>\\n' }}{% endif %}",
        )
    ),
    "earlier reasoning left out, as Qwen3": Template(_each(_STRIPPED), refused="after turn 1"),
    "reasoning asked for and left out, as DeepSeek R1": Template(
        _each(_STRIPPED, ask="<|role|>assistant\\n<think>\\n"), refused="after turn 1"
    ),
    "reasoning left out before the last question, as Qwen3": Template(
        "{% set last = namespace(at=0) %}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{% set last.at = loop.index0 %}{% endif %}{% endfor %}"
        + _each(
            "{% if message['role'] == 'assistant' and loop.index0 < last.at %}"
            "{{ '<|role|>assistant\\n' + message['content'].split('</think>')[-1].lstrip('\\n') + '<|end|>\\n' }}"
            "{% else %}" + _PLAIN + "{% endif %}"
        ),
        refused="after turn 1",
    ),
    "the newest message first": Template(
        "{% for message in messages[::-1] %}" + _PLAIN + "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|role|>assistant\\n' }}{% endif %}",
        refused="after turn 1",
    ),
    "the number of messages in the head": Template(
        _each(_PLAIN, begin="{{ messages | length }}"), refused="does not go on where it stopped"
    ),
    "only the last two turns": Template(
        _each(_PLAIN).replace("in messages", "in (messages if messages | length < 4 else messages[-2:])"),
        refused="after turn 2",
    ),
}


def tokenizer_with(template: Template, directory: Path) -> PolicyTokenizer:
    family = Family(
        byte_level(_SPECIAL),
        {"bos_token": "<|begin|>", "eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"},
        template.text,
    )
    return open_tokenizer(family.write(directory), PromptSettings())
