"""A few inputs of each target that are kept beside the code, one a line in base 64, for tests to read again."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
MOST_INPUTS = 24
"""Inputs that a target keeps."""
LONGEST = 600
"""Bytes of an input that is kept."""


def kept(name: str) -> list[bytes]:
    """The inputs kept for a target."""
    file = CORPUS / f"{name}.txt"
    return [base64.b64decode(line) for line in file.read_text(encoding="ascii").splitlines()] if file.is_file() else []


def keep(name: str, directory: Path) -> None:
    """Keeps inputs that a campaign in `directory` found, of those that are there already as many as there is room for.

    Which ones is drawn by their digests: they are spread over all that was found.
    """
    found = {file.read_bytes() for file in (directory / "corpus").iterdir() if not file.name.startswith("seed-")}
    short = [content for content in found if 0 < len(content) <= LONGEST]
    chosen = sorted(short, key=lambda content: hashlib.blake2b(content).digest())
    contents = list(dict.fromkeys([*kept(name), *chosen]))[:MOST_INPUTS]
    CORPUS.mkdir(exist_ok=True)
    lines = "".join(base64.b64encode(content).decode() + "\n" for content in contents)
    (CORPUS / f"{name}.txt").write_text(lines, encoding="ascii")
