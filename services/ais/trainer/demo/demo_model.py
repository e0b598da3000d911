"""Small policies that read and write single characters, or little more: of 0.1 (the demo's) to 3 million parameters.

Small enough that reinforcement learning shows its whole course in minutes on one CPU core, and still a real
architecture, Qwen3's or Qwen3.5's: everything that loads them here loads a Qwen3-8B the same way.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

PAD, BOS, EOS = "_", "^", "$"
CHARACTERS = PAD + BOS + EOS + "0123456789+-=,;*abc"
"""The usual vocabulary; a character's token id is its position."""
CALL = ('<tool_call>{"name": "calculate", "arguments": {"expression": "', '"}}</tool_call>')
"""What stands before and behind the expression in a call of the calculator."""
_ELSEWHERE = CHARACTERS[1:] + "\r\x0b\x0c"
ALPHABETS: Mapping[str, Sequence[str]] = {
    "digits": CHARACTERS,
    "tool_calls": ("<pad>", *CHARACTERS[1:], *(one for one in string.printable if one not in _ELSEWHERE), *CALL),
}
"""Vocabularies by name; a token's id is its position. A call has a `_`, so that cannot be the padding there."""
PAD_ID, BOS_ID, EOS_ID = (CHARACTERS.index(character) for character in (PAD, BOS, EOS))
MAX_POSITIONS = 2048
"""Longest prompt plus response, in tokens."""


@dataclass(frozen=True)
class Shape:
    """What sets the sizes apart. Heads have 32 dimensions, two share their keys and values."""

    hidden: int
    layers: int
    heads: int
    intermediate: int


SIZES = {
    "tiny": Shape(hidden=64, layers=2, heads=2, intermediate=192),
    "small": Shape(hidden=128, layers=2, heads=4, intermediate=256),
    "medium": Shape(hidden=192, layers=4, heads=6, intermediate=384),
    "large": Shape(hidden=256, layers=4, heads=8, intermediate=768),
}
"""By name: about 0.1 (the demo), 0.3, 1.3 and 3.2 million parameters."""


FAMILIES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "qwen3": ("qwen3", {}),
    "qwen3_5": (
        "qwen3_5_text",
        {
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 1,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "full_attention_interval": 2,
        },
    ),
}
"""Model type, and what only that one has. Of Qwen3.5 every second layer is linear attention, with heads of a size
that all kernels know."""


def demo_tokenizer(alphabet: str = "digits") -> Tokenizer:
    """One token a character, or longer piece of the alphabet, and BOS before every text. Text with any other character
    is an error, not an unknown token."""
    pieces = ALPHABETS[alphabet]
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}))
    either = "|".join([*(re.escape(piece) for piece in pieces if len(piece) > 1), r"[\s\S]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(either), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, BOS_ID)]
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([pieces[PAD_ID], BOS, EOS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, for `AutoTokenizer` and for `Tokenizer.from_file`."""
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=tokenizer.id_to_token(PAD_ID),
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(directory)


def demo_model(seed: int, size: str = "tiny", alphabet: str = "digits", family: str = "qwen3") -> PreTrainedModel:
    """The untrained policy, float32.

    Weights are drawn with standard deviation 1/sqrt(fan-in), and those that write to the residual stream are divided
    by sqrt(2 * layers), as in GPT-2; the library's fixed 0.02 is meant for models hundreds of times wider.
    """
    shape = SIZES[size]
    model_type, more = FAMILIES[family]
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(ALPHABETS[alphabet]),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads // 2,
        head_dim=32,
        intermediate_size=shape.intermediate,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        **more,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() != 2:
                continue  # norms start at one; what else is no matrix, as the library says
            scale = 1.0 if "embed_tokens" in name else 1.0 / math.sqrt(parameter.shape[1])
            if any(writer in name for writer in ("o_proj", "out_proj", "down_proj")):
                scale /= math.sqrt(2 * config.num_hidden_layers)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model
