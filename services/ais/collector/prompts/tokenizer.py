"""The policy's tokenizer and chat template: transformers' own, so that prompts have its tokens.

transformers reads a tokenizer without torch, and `run_without_torch` sees to it: importing takes 75 MB instead of 410.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ais.collector.prompts.prompts import Question
from ais.collector.settings import PromptSettings
from ais.runtime.process import UnavailableError

Tools = Sequence[Mapping[str, Any]] | None
"""Schemas of tools, as chat templates take them; None: none."""


@dataclass(frozen=True)
class PolicyTokenizer:
    """Turns a question into prompt tokens, and response tokens into text."""

    tokenizer: Any
    """A tokenizer of transformers."""
    settings: PromptSettings

    @property
    def chats(self) -> bool:
        """Whether prompts are put into a chat template."""
        return self.settings.use_chat_template and bool(self.tokenizer.chat_template)

    def encode_prompt(self, question: Question, tools: Tools = None) -> list[int]:
        """Tokens of the prompt, whole, inside the chat template if there is one. Raises UnavailableError where the
        template refuses, and for a chat where there is none."""
        if self.chats:
            return self.encode_piece(self.render(self.messages(question), tools, then_turn=True))
        if not isinstance(question, str):
            raise UnavailableError(
                f"prompts that are lists of messages need a chat template; {self.tokenizer.name_or_path} has none, or "
                "collector.prompt.use_chat_template is false"
            )
        return self.encode_text(question)

    def encode_text(self, text: str) -> list[int]:
        """Tokens of a text that stands alone, with the special tokens that the tokenizer puts around one. Raises
        UnavailableError for what it has no tokens for."""
        try:
            tokens: list[int] = self.tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"]
        except Exception as error:  # the library raises bare Exception for every fault
            raise UnavailableError(f"the tokenizer cannot encode {text!r:.200}: {error}") from None
        return tokens

    def messages(self, question: Question) -> list[dict[str, Any]]:
        """The question as a chat. One that brings a system message of its own keeps that one."""
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else [*map(dict, question)]
        if self.settings.system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.settings.system})
        return messages

    def render(self, messages: list[dict[str, Any]], tools: Tools = None, *, then_turn: bool) -> str:
        """The chat as text; with `then_turn`, up to where the policy's turn begins. Raises UnavailableError where the
        template refuses."""
        arguments = dict(self.settings.template_arguments)
        if tools is not None:
            arguments["tools"] = [*arguments.get("tools", []), *tools]
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=then_turn, tokenize=False, **arguments
            )
        except Exception as error:  # a template is a program, and fails as programs do
            raise UnavailableError(
                f"the chat template of {self.tokenizer.name_or_path} cannot render the prompt "
                f"({type(error).__name__}: {error}); collector.prompt.use_chat_template = false goes without it"
            ) from error
        return text

    def encode_piece(self, text: str) -> list[int]:
        """Tokens of a part of a text, with no special tokens but those that are written in it. Raises UnavailableError
        for what the tokenizer has no tokens for."""
        try:
            return self._encode(text)
        except Exception as error:  # the library raises bare Exception for every fault
            raise UnavailableError(f"the tokenizer cannot encode {text!r:.200}: {error}") from None

    @cached_property
    def _encode(self) -> Callable[[str], list[int]]:
        """Gives the tokens of a text, special ones only where they are written.

        The library's call takes twice the encoder's time for a few words, and hands them to threads. So the
        encoder is asked itself, where the tokenizer adds nothing to it.
        """
        from transformers import PreTrainedTokenizerFast

        def call(text: str) -> list[int]:
            tokens: list[int] = self.tokenizer(
                text, add_special_tokens=False, truncation=False, padding=False, verbose=False
            )["input_ids"]
            return tokens

        kind = type(self.tokenizer)
        plain = (kind.__call__, getattr(kind, "_encode_plus", None)) == (
            PreTrainedTokenizerFast.__call__,
            PreTrainedTokenizerFast._encode_plus,
        )
        if not plain:
            return call
        call("")  # from now on the encoder neither truncates nor pads
        encoder = self.tokenizer.backend_tokenizer

        def encode(text: str) -> list[int]:
            tokens: list[int] = encoder.encode(text, add_special_tokens=False).ids
            return tokens

        return encode

    def text_of(self, token: int) -> str:
        """How one token is written, special or not."""
        text: str = self.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    @cached_property
    def byte_tokens(self) -> frozenset[int]:
        """Those that stand for a byte each, where the vocabulary has some for characters that it does not know."""
        written = [f"<0x{byte:02X}>" for byte in range(256)]
        found = self.tokenizer.convert_tokens_to_ids(written)
        return frozenset(
            token
            for text, token in zip(written, found, strict=True)
            if token is not None and token != self.tokenizer.unk_token_id and self.text_of(token) != text
        )

    def decode_response(self, token_ids: Sequence[int]) -> str:
        """The text as it was written, without special tokens."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def open_tokenizer(model: Path, settings: PromptSettings) -> PolicyTokenizer:
    """Reads the tokenizer of a Hugging Face directory, whose code is never run.

    Raises UnavailableError when there is none, when the chat template cannot be read, and when it refuses what the
    settings put into it.
    """
    if not model.is_dir():
        raise UnavailableError(f"run.model = {model} is not a directory; a Hugging Face model directory is needed")
    from transformers import AutoTokenizer  # takes a second: not for those who only read settings

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each tokenizer class raises what it likes
        raise UnavailableError(
            f"no tokenizer in {model} ({type(error).__name__}: {error}). run.model must be a Hugging Face directory "
            "with tokenizer.json and tokenizer_config.json."
        ) from error
    if settings.chat_template is not None:
        tokenizer.chat_template = _template_in(settings.chat_template)
    opened = PolicyTokenizer(tokenizer, settings)
    if not opened.chats and (settings.system or settings.template_arguments):
        raise UnavailableError(
            "collector.prompt.system and template_arguments need a chat template, and the tokenizer of "
            f"{model} has none (collector.prompt.chat_template names one)"
        )
    opened.encode_prompt("")  # a template that refuses our arguments does so now
    return opened


def _template_in(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UnavailableError(f"collector.prompt.chat_template: {file} cannot be read: {error}") from error


def run_without_torch() -> None:
    """From now on this process cannot import torch, unless it has. Call it before transformers is imported."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # how Python says that a module is not there
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
