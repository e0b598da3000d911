"""The policy's tokenizer, read with the tokenizers library alone: no torch in the collector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from ais.collector.prompts.chat_template import ChatTemplate, read_chat_template
from ais.collector.settings import PromptSettings
from ais.runtime.process import UnavailableError


@dataclass(frozen=True)
class PolicyTokenizer:
    """A problem's text to prompt tokens, response tokens to text."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    settings: PromptSettings

    def encode_prompt(self, text: str) -> list[int]:
        """Tokens of the prompt, inside the chat template if there is one. Raises UnavailableError where it refuses."""
        if self.chat_template is None:
            plain: list[int] = self.tokenizer.encode(text).ids
            return plain
        chat = self.chat_template.render(self.settings.system, text, self.settings.template_arguments)
        tokens: list[int] = self.tokenizer.encode(chat, add_special_tokens=False).ids  # the template has written them
        return tokens

    def decode_response(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text


def open_tokenizer(model: Path, settings: PromptSettings) -> PolicyTokenizer:
    """Raises UnavailableError when the model directory has no readable tokenizer.json, or no chat to speak in."""
    file = model / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for every fault
        raise UnavailableError(
            f"no tokenizer at {file} ({error}). run.model must be a Hugging Face directory with a fast tokenizer."
        ) from error
    template = read_chat_template(model) if settings.use_chat_template else None
    if template is None and (settings.system or settings.template_arguments):
        raise UnavailableError(
            "collector.prompt.system and template_arguments need a chat template, and the tokenizer of "
            f"{model} has none"
        )
    if template is not None:
        template.render(settings.system, "", settings.template_arguments)  # one that refuses our arguments does so now
    return PolicyTokenizer(tokenizer, template, settings)
