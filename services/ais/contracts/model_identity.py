"""Which model and which tokenizer a process was started with, as digests that two processes can compare.

The digests do not depend on paths, nor on the weights, which change with every policy version and have a digest of
their own (`ais.contracts.weights.offer`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
"""The files by Hugging Face's names that decide how text becomes tokens."""


@dataclass(frozen=True)
class ModelIdentity:
    """What must be equal wherever one run samples, scores and trains."""

    model_digest: str
    """Digest of config.json, which decides the architecture; empty: the directory has none."""
    tokenizer_digest: str
    """Digest of the tokenizer's files; empty: the directory has none."""


def identify_model(directory: Path) -> ModelIdentity:
    """Reads a Hugging Face model directory. Raises OSError when a file in it cannot be read."""
    return ModelIdentity(_digest(directory, (CONFIG_FILE,)), _digest(directory, TOKENIZER_FILES))


def _digest(directory: Path, names: Iterable[str]) -> str:
    """Digest of the names and contents of those files that exist, in the order of `names`; empty when none does."""
    contents = [(name, (directory / name).read_bytes()) for name in names if (directory / name).is_file()]
    if not contents:
        return ""
    digest = blake3()
    for name, content in contents:
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return f"blake3:{digest.hexdigest()}"
