"""Help texts: prose is filled to the terminal's width, examples stay one to a line."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperGroup

EXAMPLE = "ais "
"""A paragraph whose every line begins like this is of examples."""
_VERBATIM = "\b\n"
"""Tells click to leave a paragraph's lines alone."""


def laid_out(text: str) -> str:
    """A docstring as click is to show it."""
    paragraphs = [paragraph.strip("\n") for paragraph in text.split("\n\n")]
    return "\n\n".join(_examples(one) if _is_example(one) else one for one in paragraphs if one.strip())


class HelpGroup(TyperGroup):
    """A group of commands whose help is laid out."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        for command in (self, *self.commands.values()):
            command.short_help = re.split(r"[.:;](?=\s|$)", command.help or "")[0]
            command.help = laid_out(command.help or "")


def _is_example(paragraph: str) -> bool:
    return all(line.strip().startswith(EXAMPLE) for line in paragraph.split("\n"))


def _examples(paragraph: str) -> str:
    return _VERBATIM + "\n".join(f"  {line.strip()}" for line in paragraph.split("\n"))
