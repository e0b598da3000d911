"""What the result of a cell depends on, but the code: as JSON, so that a record can tell whose it is.

Models and data files count by what is in them, wherever they lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ais.comparison.settings import CompareSettings
from ais.comparison.trees import at, flat, is_section, tree_of
from ais.runtime.process import UnavailableError
from ais.settings import Settings

SECTIONS = (
    "run.model",
    "run.steps",
    "run.groups_per_batch",
    "run.samples_per_group",
    "run.max_staleness",
    "run.seed",
    "collector.task",
    "collector.prompt",
    "collector.sampling",
    "trainer.objective",
    "trainer.optimizer",
    "trainer.lora",
    "trainer.float32_head",
    "correction",
    "rollout.precision",
    "rollout.max_model_len",
)
"""Settings that a result depends on; the others say where things lie and how fast they go."""
SCORING = ("mode", "evaluate_every", "evaluation_prompts", "final_prompts")

Identity = Mapping[str, Any]


def identity_of(settings: Settings, compare: CompareSettings) -> dict[str, Any]:
    """Dotted keys and JSON values. Raises UnavailableError for a model or a file that is not there."""
    found = dict(_values(settings)) | {f"compare.{name}": getattr(compare, name) for name in SCORING}
    if compare.mode == "system":
        found["rollout.engine"] = settings.rollout.engine
    return found


def is_same(recorded: Identity, now: Identity) -> bool:
    """Whether a record is of this cell: all that it names is the same now, and settings that its release did not have
    are at their defaults."""
    return all(name in now and now[name] == value for name, value in recorded.items()) and all(
        name in recorded or value == _defaults().get(name) for name, value in now.items()
    )


@cache
def _defaults() -> Mapping[str, Any]:
    return dict(_values(Settings(), "run.model"))


def _values(settings: Settings, leave_out: str = "") -> Iterator[tuple[str, Any]]:
    for key in SECTIONS:
        if key != leave_out:
            value = at(settings, key)
            pairs = flat(tree_of(value), f"{key}.") if is_section(value) else [(key, value)]
            yield from ((name, _plain(one)) for name, one in pairs)


def _plain(value: Any) -> Any:
    """A value as JSON has it: of files their content, infinity as text."""
    match value:
        case Path():
            return content_digest(value)
        case float() if not math.isfinite(value):
            return str(value)
        case tuple() | list():
            return [_plain(one) for one in value]
        case Mapping():
            return {name: _plain(one) for name, one in value.items()}
        case _ if is_section(value):
            return _plain(tree_of(value))
        case _:
            return value


@cache
def content_digest(path: Path) -> str:
    """Digest of a file, or of a model directory's configuration, weights and tokenizer. Raises UnavailableError."""
    from blake3 import blake3

    files = [path]
    if path.is_dir():
        files = sorted(one for pattern in ("*.json", "*.safetensors") for one in path.glob(pattern))
    digest = blake3()
    try:
        for file in files:
            digest.update(file.name.encode() if path.is_dir() else b"")
            digest.update_mmap(file)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from error
    if not files:
        raise UnavailableError(f"{path} has no config.json and no weights")
    return f"blake3:{digest.hexdigest(16)}"
