"""What a run may go on with: which settings `ais resume --set` may change, and which make it another run. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ais.runtime.explaining import shown
from ais.runtime.settings import SettingsError
from ais.settings import Settings

FIXED: Mapping[str, str] = {
    "run.model": "the checkpoints are of that model",
    "run.groups_per_batch": "groups in its queue belong to batches of that size",
    "run.samples_per_group": "groups in its queue have that many responses",
    "run.seed": "the order of its prompts follows from it",
    "trainer.lora": "the state of its optimizer is of those weights",
    "collector.task": "its prompts come from it",
    "collector.prompt": "its prompts are made with it",
}
"""Settings, and whole sections, that stay as a run was begun, and why."""


def check_resumable(before: Settings, after: Settings) -> None:
    """Raises SettingsError when `after` is not the run of `before`, saying what may change and what may not.

    The path of something that was moved may change: the old path must then name nothing.
    """
    old, new = dict(_flat(before.model_dump())), dict(_flat(after.model_dump()))
    problems = []
    for key in sorted(old.keys() | new.keys()):
        fixed = next((name for name in FIXED if key == name or key.startswith(f"{name}.")), None)
        was, will = old.get(key), new.get(key)
        if fixed and _differ(was, will) and not (isinstance(was, Path) and not was.exists()):
            problems.append(f"  {key}{_change(was, will)}: {FIXED[fixed]}")
    if problems:
        raise SettingsError(
            "the run cannot go on with other values of\n"
            + "\n".join(problems)
            + "\nNothing was changed. Every setting "
            f"may change but {', '.join(FIXED)} (and where the run lies). For another run that begins with this one's "
            "policy: `ais run --set run.model=RUN/checkpoints/STEP`."
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping | Path) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _differ(was: Any, will: Any) -> bool:
    if isinstance(was, Path) and isinstance(will, Path):
        return was.resolve() != will.resolve()
    return bool(was != will)


def _change(was: Any, will: Any) -> str:
    if not all(isinstance(value, str | int | float | Path | None) for value in (was, will)):
        return ""
    before, after = ("not set" if value is None else shown(value) for value in (was, will))
    return f" (it is {before}, not {after})"
