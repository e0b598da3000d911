"""What programs and agents ask of the endpoint of episodes: bodies of calls, up to the tokens they are turned into."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ais.collector.environments.tool_calls import Form, split_calls
from ais.collector.episodes.conversations import begun
from ais.collector.episodes.saying import why_no_stop
from ais.collector.judging.harness.answers import Completed
from ais.collector.judging.harness.wire import (
    Asked,
    CallRefusedError,
    Completion,
    completion_in,
    end_in,
    raw_completion_in,
    wanted_in,
)
from ais.collector.prompts.dialogue import Dialogue
from ais.collector.prompts.tokenizer import PolicyTokenizer
from ais.collector.settings import PromptSettings
from ais.runtime.process import UnavailableError
from benchmarks.fuzz.target import Target, Targets

_TEMPLATE = """
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for message in messages %}{{ message.role + ':' + message.content }}
{%- for call in message.tool_calls or () %}{{ call.function.name }}
{%- for name, value in call.function.arguments | items %}{{ name }}={{ value }}{% endfor %}{% endfor %};
{%- endfor %}{% if add_generation_prompt %}:{% endif %}"""


def _tokenizer() -> PolicyTokenizer:
    """A token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    characters = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    characters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    characters.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=characters)
    made.chat_template = _TEMPLATE
    return PolicyTokenizer(made, PromptSettings())


_TOKENIZER = _tokenizer()
_CALLS: Mapping[Form, str] = {
    "json": '<tool_call>{"name": "buy", "arguments": {"what": "tea", "many": 2}}</tool_call>',
    "xml": "<tool_call><function=buy><parameter=what>tea</parameter><parameter=many>2</parameter></function>"
    "</tool_call>",
}


def _answer(asked: Asked) -> None:
    """As an episode does before the policy is asked, and after it."""
    assert asked.size >= 0
    assert 0 < asked.most_tokens(64) <= 64
    assert asked.wants_logprobs in (True, False)
    assert asked.tells_usage in (True, False)
    why_no_stop(_TOKENIZER, asked.stops)
    conversation = begun(asked, lambda question, tools: Dialogue(_TOKENIZER, question, tools), _TOKENIZER)
    tokens = conversation.first_tokens()
    schemas = asked.schemas if isinstance(asked, Completion) else None
    for form, written in _CALLS.items():
        text, calls = split_calls(written, schemas, form) if schemas else (written, ())
        completed = Completed("chatcmpl-1", text, "stop", len(tokens), 3, calls, None, [1, 2, 3])
        json.dumps(completed.body()).encode()
        assert conversation.answered(completed, written).after(asked) is None


def _told(read: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Reads, and writes a refusal as the API does."""

    def reading(content: bytes) -> object:
        try:
            return read(content)
        except CallRefusedError as error:
            json.dumps(error.body()).encode()
            raise

    return reading


_TOOL = {
    "type": "function",
    "function": {
        "name": "buy",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}, "many": {"type": "integer"}}},
    },
}
_CHAT = {
    "model": "any",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Buy."}]},
        {"role": "user", "content": "tea"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "buy", "arguments": '{"many": 2}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "12"},
    ],
    "tools": [_TOOL],
    "stop": ["\n", "END"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": True,
    "top_logprobs": 0,
    "max_completion_tokens": 7,
    "n": 1,
}
_REFUSALS = (CallRefusedError, UnavailableError)

TARGETS: Targets = {
    "chat": Target(
        _told(lambda content: _answer(completion_in(content))),
        _REFUSALS,
        (json.dumps(_CHAT).encode(), b'{"messages": [{"role": "user", "content": "00-31;"}]}'),
    ),
    "completion": Target(
        _told(lambda content: _answer(raw_completion_in(content))),
        _REFUSALS,
        (
            b'{"model": "any", "prompt": "00-31;", "logprobs": 0, "stop": "+", "max_tokens": 4, "echo": false}',
            b'{"prompt": [4, 5, 6], "stream": true}',
            b'{"prompt": ["00-31;"], "best_of": 1}',
        ),
    ),
    "end": Target(
        _told(end_in),
        (CallRefusedError,),
        (b'{"reward": 0.5}', b'{"failed": "why"}', b'{"again": true}', b"{}"),
    ),
    "wanted": Target(_told(wanted_in), (CallRefusedError,), (b"", b'{"seconds": 30}', b'{"seconds": 0.5}')),
}
