"""What `ais init` does: writes one of the examples that come with the package as a directory to begin with.

What an example takes from beside it, such as the demo's model, is written into the new directory too, so that it stands
alone. Nothing that exists is ever written over.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from ais.runtime.process import UnavailableError
from ais.runtime.settings import SettingsError

CONFIG = "config.toml"
_LEFT_BEHIND = shutil.ignore_patterns("__pycache__", ".*")
_PATH_BESIDE = re.compile(r'"\.\./([^"]+)"')


def examples_directory() -> Path:
    """Where the examples are: in the installed package, or in the clone that it runs from."""
    here = Path(__file__).resolve()
    places = (here.with_name("examples"), here.parents[2] / "examples")
    for place in places:
        if place.is_dir():
            return place
    raise UnavailableError(f"the examples are neither in {places[0]} nor in {places[1]}")


def descriptions(examples: Path) -> Mapping[str, str]:
    """What each example is: the first sentence of its settings file, by name."""
    found = {}
    for config in sorted(examples.glob(f"*/{CONFIG}")):
        comment = config.read_text(encoding="utf-8").split("\n\n", 1)[0]
        text = " ".join(line.lstrip("# ") for line in comment.splitlines() if line.startswith("#"))
        found[config.parent.name] = re.split(r"(?<=[.:])\s", text)[0].rstrip(".:")
    return found


def write_beginning(examples: Path, name: str, target: Path) -> list[Path]:
    """Writes the example `name` as the directory `target`, and gives its files.

    Raises SettingsError where there is no such example, and UnavailableError where `target` exists or cannot be made.
    """
    example = examples / name
    if name not in descriptions(examples):
        raise SettingsError(f"there is no example {name}; there are: {', '.join(descriptions(examples))}")
    if target.exists() or target.is_symlink():
        raise UnavailableError(f"{target} exists already, and nothing is written over; name another directory")
    try:
        shutil.copytree(example, target, ignore=_LEFT_BEHIND)
        config = target / CONFIG
        text = config.read_text(encoding="utf-8")
        for beside in dict.fromkeys(_PATH_BESIDE.findall(text)):
            text = text.replace(f'"../{beside}"', f'"{_bring(examples / beside, beside, target)}"')
        config.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"{target} cannot be written: {error}") from error
    return sorted(path for path in target.rglob("*") if path.is_file())


def _bring(source: Path, beside: str, target: Path) -> str:
    """Copies what lies beside an example, and says what it is called in `target`."""
    if not source.exists() or beside.startswith("../"):  # the user's own, such as ../../models/NAME
        return beside.removeprefix("../")
    copy = target / source.name
    if source.is_dir():
        shutil.copytree(source, copy, ignore=_LEFT_BEHIND, dirs_exist_ok=True)
    elif not copy.exists():
        shutil.copyfile(source, copy)
    return source.name
