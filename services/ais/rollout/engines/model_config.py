"""A model directory's config.json, as transformers reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ais.rollout.engine import ModelUnsupportedError
from ais.runtime.text import printable


def read_config(directory: Path) -> Any:
    """Raises ModelUnsupportedError when there is none, when it cannot be read, and for a model_type that is unknown."""
    from transformers import AutoConfig

    if not (directory / "config.json").is_file():
        raise ModelUnsupportedError(
            f"{directory} is not a Hugging Face model directory: it has no config.json. Set run.model to one that is."
        )
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnsupportedError(f"{directory}/config.json cannot be read: {printable(str(error))}") from error
