"""Tokenizers and chat templates that behave as those of well-known model families do, made small and on the spot.

A family stands for what is peculiar to it: how it cuts and normalises text, which special tokens it puts where, and
what its template asks of whoever renders it. The templates are ours; they use what the families' own use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "What is 17 + 25? Think step by step, then give the answer alone after ####.",
    "The quick brown fox jumps over the lazy dog; 3.14159, 1,000 and -7 are numbers.",
    "system user assistant tool model documents tools you are a helpful assistant",
    "Résumé naïve café, Größe, Москва, 東京, مرحبا",
]
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"


@dataclass(frozen=True)
class Family:
    """What is written into a model directory."""

    tokenizer: Tokenizer
    configuration: Mapping[str, Any]
    """Contents of tokenizer_config.json."""
    template: str | None = None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    """Templates by name, where there are several."""
    model_type: str = "llama"

    def write(self, directory: Path) -> Path:
        """Makes `directory` look like one that was downloaded."""
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(directory / "tokenizer.json"))
        configuration: dict[str, Any] = dict(self.configuration)
        if self.named_templates:
            configuration["chat_template"] = [
                {"name": name, "template": template} for name, template in self.named_templates.items()
            ]
        elif self.template is not None:
            configuration["chat_template"] = self.template
        (directory / "tokenizer_config.json").write_text(json.dumps(configuration, ensure_ascii=False), "utf-8")
        (directory / "config.json").write_text(json.dumps({"model_type": self.model_type}), "utf-8")
        return directory


def byte_level(special: list[str], normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def sentencepiece(special: list[str], prepend: bool) -> Tokenizer:
    """BPE over words that begin with a mark, with bytes for what it does not know, as Llama 2 and Gemma have it."""
    marks: list[normalizers.Normalizer] = [normalizers.Prepend("▁")] if prepend else []
    strip: list[decoders.Decoder] = [decoders.Strip(" ", 1, 0)] if prepend else []
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence([*marks, normalizers.Replace(" ", "▁")])
    control = ["<unk>", "<s>", "</s>"]
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=control, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    vocabulary = [*model["vocab"], *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(
        models.BPE(
            {token: number for number, token in enumerate(vocabulary)},
            [tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control + special])
    return tokenizer


def begins_with(tokenizer: Tokenizer, token: str) -> Tokenizer:
    """Puts `token` before every text that is encoded with special tokens."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, tokenizer.token_to_id(token))]
    )
    return tokenizer


CHATML_TOOLS = """{%- if tools is not none and tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

HEADERS_WITH_A_DATE = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
    {%- endfor %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

INSTRUCTIONS = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}\
{% set system_message = false %}{% endif %}{% for message in loop_messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if loop.index0 == 0 and system_message != false %}\
{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% endfor %}"""

TURNS = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""

LINES = """{% for message in messages %}{{'<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n'}}\
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

GENERATION = """{%- for message in messages -%}
    {%- if message.role == 'tool' %}{% continue %}{% endif -%}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}{{ message.content }}{%- endgeneration -%}
    {%- else -%}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' -}}
    {%- endif -%}
    {%- if loop.index > 20 -%}{%- break -%}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

DOCUMENTS = """{{ bos_token }}{% if documents is not none %}<results>
{% for document in documents %}
Document: {{ loop.index0 }}
{% for key, value in document.items() %}{{ key }}: {{ value }}
{% endfor %}{% endfor %}</results>
{% endif %}{% for message in messages %}<|{{ message.role | upper }}_TOKEN|>{{ message.content | replace('\\r', '') }}
<|END|>{% endfor %}{% if add_generation_prompt %}<|CHATBOT_TOKEN|>{% endif %}"""

TOOL_USE = """{{ bos_token }}Tools:
{{ tools | tojson(indent=2, sort_keys=true, separators=(',', ': '), ensure_ascii=true) }}
{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|END|>{% endfor %}<|CHATBOT_TOKEN|>"""

FULLWIDTH = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% set ns = namespace(is_first=false, system_prompt='') %}{%- for message in messages %}\
{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}\
{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}\
{%- set ns.is_first = false -%}{{'<｜User｜>' + message['content'].split('</think>')[-1]}}{%- endif %}{%- endfor %}\
{% if add_generation_prompt and not ns.is_first %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"""

ROLES = """{%- set date = 'Date: ' + strftime_now('%Y-%m-%d') %}
{%- set system = messages[0].content if messages[0].role == 'system' else date %}
{%- if tools or documents %}{{ '<|start_of_role|>available<|end_of_role|>' + (tools or documents) | tojson(indent=4) }}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\\n' }}
{%- macro turn(message) %}{{ '<|start_of_role|>' ~ message['role'] ~ '<|end_of_role|>' }}
{{- message['content'] }}{% endmacro %}
{%- for message in messages if message.role != 'system' %}{{ turn(message) }}{{ '<|end_of_text|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"""

DEFAULT_SYSTEM = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def _chatml(template: str, **configuration: Any) -> Family:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return Family(
        byte_level(tokens),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **configuration},
        template,
    )


def families() -> dict[str, Family]:
    """One of each kind, by name."""
    llama3 = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    deepseek = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
    command = ["<BOS>", "<EOS>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END|>"]
    return {
        "qwen3": Family(
            byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"], normalizers.NFC()),
            {
                "tokenizer_class": "Qwen2Tokenizer",
                "bos_token": None,
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "add_bos_token": False,
            },
            CHATML_TOOLS,
            model_type="qwen3",
        ),
        "llama3": Family(
            begins_with(byte_level(llama3), llama3[0]),
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": llama3[0],
                "eos_token": llama3[1],
                "clean_up_tokenization_spaces": True,
            },
            HEADERS_WITH_A_DATE,
        ),
        "llama2": Family(
            begins_with(sentencepiece([], prepend=True), "<s>"),
            {
                "tokenizer_class": "LlamaTokenizer",
                "bos_token": {"__type": "AddedToken", "content": "<s>", "special": True},
                "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
                "add_bos_token": True,
                "legacy": False,
            },
            INSTRUCTIONS,
        ),
        "gemma": Family(
            sentencepiece(["<start_of_turn>", "<end_of_turn>"], prepend=False),
            {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"},
            TURNS,
        ),
        "phi3": Family(
            sentencepiece(["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"], prepend=True),
            {"bos_token": "<s>", "eos_token": "<|end|>", "tokenizer_class": "LlamaTokenizer"},
            LINES,
        ),
        "smollm2": _chatml(DEFAULT_SYSTEM, tokenizer_class="GPT2Tokenizer"),
        "smollm3": _chatml(GENERATION),
        "command_r": Family(
            begins_with(byte_level(command), "<BOS>"),
            {"bos_token": "<BOS>", "eos_token": "<EOS>"},
            named_templates={"default": DOCUMENTS, "tool_use": TOOL_USE},
        ),
        "deepseek": Family(
            begins_with(byte_level(deepseek), deepseek[0]),
            {"bos_token": deepseek[0], "eos_token": deepseek[1], "add_bos_token": True},
            FULLWIDTH,
        ),
        "granite": Family(
            byte_level(["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"]),
            {"bos_token": "<|end_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|end_of_text|>"},
            ROLES,
        ),
        "gpt2": Family(
            byte_level(["<|endoftext|>"]), {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}, None
        ),
    }
