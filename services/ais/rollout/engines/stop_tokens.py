"""Which tokens end a response when the request names none: the model's, and its tokenizer's."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ais.rollout.engine import ModelUnsupportedError
from ais.rollout.engines.limits import MOST_STOP_TOKENS

logger = logging.getLogger(__name__)


def stop_token_ids(directory: Path, config: Any) -> tuple[int, ...]:
    """The end-of-sequence tokens of a Hugging Face directory, ascending, each below `config.vocab_size`.

    They are those of generation_config.json, or of `config` where that has none, and the tokenizer's eos_token: a model
    tuned to end its turns with `<|im_end|>` often keeps the config of its base model, and would never stop. A warning
    says where the two differ, and where there are none at all. Raises ModelUnsupportedError for values that are not
    token ids, and for more of them than a request may have.
    """
    declared = _declared(directory, config)
    tokenizers = _tokenizers_own(directory)
    if tokenizers is not None and tokenizers not in declared and tokenizers < config.vocab_size:
        logger.warning(
            "the tokenizer's eos_token is not among the model's: responses end with any of them",
            extra={"model": str(directory), "models": sorted(declared), "tokenizers": tokenizers},
        )
        declared = declared | {tokenizers}
    found = tuple(sorted(token for token in declared if token < config.vocab_size))
    if len(found) > MOST_STOP_TOKENS:
        raise ModelUnsupportedError(f"{directory} has {len(found)} eos_token_ids; up to {MOST_STOP_TOKENS} can be used")
    if not found:
        logger.warning(
            "neither the model nor its tokenizer has an end-of-sequence token: every response will run to "
            "max_new_tokens. Set collector.sampling.stop_token_ids",
            extra={"model": str(directory)},
        )
    return found


def _declared(directory: Path, config: Any) -> frozenset[int]:
    declared = _read(directory / "generation_config.json").get("eos_token_id")
    if declared is None:
        declared = getattr(config, "eos_token_id", None)
    tokens = declared if isinstance(declared, list) else [] if declared is None else [declared]
    if any(not isinstance(token, int) or isinstance(token, bool) or token < 0 for token in tokens):
        raise ModelUnsupportedError(f"{directory}: eos_token_id must be a token id or a list of them, got {declared!r}")
    return frozenset(tokens)


def _tokenizers_own(directory: Path) -> int | None:
    """The id of the tokenizer's eos_token; None where it has none, or cannot be read."""
    text = _read(directory / "tokenizer_config.json").get("eos_token") or _read(
        directory / "special_tokens_map.json"
    ).get("eos_token")
    if isinstance(text, dict):
        text = text.get("content")
    file = directory / "tokenizer.json"
    if not isinstance(text, str) or not file.is_file():
        return None
    try:
        token: int | None = Tokenizer.from_file(str(file)).token_to_id(text)
    except Exception as error:  # the library raises bare Exception for every fault; the collector will refuse the file
        logger.warning("cannot read the tokenizer: %s", error, extra={"file": str(file)})
        return None
    return token


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelUnsupportedError(f"{file} is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise ModelUnsupportedError(f"{file} must hold a JSON object")
    return read
