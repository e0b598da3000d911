"""The policy's tokenizer, read with the tokenizers library alone: no torch in the collector."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from services.runtime.process import UnavailableError


def open_tokenizer(model: Path) -> Tokenizer:
    """Raises UnavailableError when the model directory has no readable tokenizer.json."""
    file = model / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for every fault
        raise UnavailableError(
            f"no tokenizer at {file} ({error}). run.model must be a Hugging Face directory with a fast tokenizer."
        ) from error
