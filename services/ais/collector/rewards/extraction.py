"""Finds the answer in a response, in time proportional to its length, whatever the response is.

The last answer counts, so that a policy cannot give several and be right with one. What is ambiguous is no answer.
"""

from __future__ import annotations

import unicodedata

from ais.collector.settings.rewards import Extraction

LONGEST_ANSWER = 4000
"""Characters. What is longer is no answer; it also bounds what a parser is given."""

_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Cn"})
"""Unicode categories of characters that cannot be seen: they hide text, or change what its neighbours look like."""


def extracted(text: str, extraction: Extraction) -> str | None:
    """The answer without white space around it; None where there is none, or where it is not certain which it is."""
    found = _FINDERS[extraction](text)
    if found is None or not (found := found.strip()) or len(found) > LONGEST_ANSWER:
        return None
    return None if hides_something(found) else found


def hides_something(text: str) -> bool:
    """Whether a text has digits of another script than ours, full-width letters or characters that cannot be seen."""
    if text.isascii() and text.isprintable():
        return False
    return any(_is_deceptive(character) for character in text)


def _is_deceptive(character: str) -> bool:
    if character in "\n\r\t" or (character.isascii() and character.isprintable()):
        return False
    category = unicodedata.category(character)
    return category in _HIDDEN or category.startswith("N") or unicodedata.east_asian_width(character) == "F"


def _whole(text: str) -> str | None:
    return text


def _answer_tag(text: str) -> str | None:
    """What the last `<answer>` holds. None unless exactly one `</answer>` follows it: an injected one makes it unclear
    where the answer ends."""
    _, opened, rest = text.rpartition("<answer>")
    content, closed, after = rest.partition("</answer>")
    return content if opened and closed and "</answer>" not in after else None


def _hash(text: str) -> str | None:
    _, mark, rest = text.rpartition("####")
    return rest.partition("\n")[0] if mark else None


def _boxed(text: str) -> str | None:
    """What the braces of the last `\\boxed` hold; None where they do not end."""
    _, mark, rest = text.rpartition("\\boxed")
    rest = rest.lstrip()[: LONGEST_ANSWER + 2]
    if not mark or not rest.startswith("{"):
        return None
    depth = 0
    escape = False
    for position, character in enumerate(rest):
        if escape:
            escape = False
        elif character == "\\":
            escape = True
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return rest[1:position]
    return None


_FINDERS = {"whole": _whole, "answer_tag": _answer_tag, "hash": _hash, "boxed": _boxed}
