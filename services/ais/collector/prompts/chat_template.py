"""A tokenizer's chat template, rendered as transformers renders it, without transformers: no torch in the collector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ais.runtime.process import UnavailableError


@dataclass(frozen=True)
class ChatTemplate:
    """Turns a system message and a user's message into the text that a chat model continues."""

    template: Template
    special_tokens: Mapping[str, str]
    """The tokenizer's special tokens by role, such as `bos_token`; templates write them."""

    def render(self, system: str, user: str, arguments: Mapping[str, Any]) -> str:
        """Text up to where the assistant's answer begins. An empty `system` is left out. Raises UnavailableError."""
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": user})
        try:
            return self.template.render(
                {**self.special_tokens, "messages": messages, "add_generation_prompt": True, **arguments}
            )
        except TemplateError as error:
            raise UnavailableError(f"the tokenizer's chat template cannot render the prompt: {error}") from error


def read_chat_template(model: Path) -> ChatTemplate | None:
    """The template of a Hugging Face directory, or None. Raises UnavailableError for one that cannot be read."""
    configuration = _read_json(model / "tokenizer_config.json")
    file = model / "chat_template.jinja"
    text = file.read_text(encoding="utf-8") if file.is_file() else configuration.get("chat_template")
    if isinstance(text, list):  # several, by name
        text = next((entry["template"] for entry in text if entry["name"] == "default"), None)
    if not text:
        return None
    try:
        template = _environment().from_string(text)
    except TemplateError as error:
        raise UnavailableError(
            f"the chat template of {model} is not one we can read ({error}); "
            "collector.prompt.use_chat_template = false goes without it"
        ) from error
    return ChatTemplate(template, _special_tokens(configuration))


def _environment() -> ImmutableSandboxedEnvironment:
    """What the field's templates are written for: transformers' `chat_template_utils`."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _special_tokens(configuration: Mapping[str, Any]) -> dict[str, str]:
    tokens = {name: value for name, value in configuration.items() if name.endswith("_token")}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnavailableError(f"{file} is not JSON: {error}") from error
    return read
