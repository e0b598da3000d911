"""Text that came from a peer, made safe to print: a log line, an error or a terminal shows it and cannot obey it."""

from __future__ import annotations

import unicodedata

LONGEST_TEXT = 500
"""Characters of one peer's text that an error or a log line repeats."""

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that are escaped: controls, formats (which reverse or hide text), surrogates, private and
unassigned code points, and line and paragraph separators."""


def printable(text: str | bytes, longest: int = LONGEST_TEXT) -> str:
    """`text` on one line without control characters, at most `longest` characters of it.

    Control characters, ANSI escapes, line breaks and bytes that are not UTF-8 are written as escapes (`\\n`, `\\x1b`,
    `\\udcff`). What is cut off is counted at the end. Printing the result again changes nothing that was short enough.
    """
    shown = text[:longest]
    rest = len(text) - len(shown)
    if isinstance(shown, bytes):
        shown = shown.decode(errors="backslashreplace")
    line = escaped(shown)
    if len(line) > longest:
        rest += len(line) - longest
        line = line[:longest]
    return f"{line}... ({rest} more)" if rest else line


def escaped(text: str, keep: str = "") -> str:
    """`text` with every unprintable character written as an escape, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(character if character in keep else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
