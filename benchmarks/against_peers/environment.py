"""Where the peers are installed: an environment of TRL's own and a directory with verl, kept for the next time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ais.runtime.exits import UnavailableError

TRL = "1.16.0"
VERL = "0.9.1"
VERL_NEEDS = ("ray", "msgpack", "tensordict", "pyvers", "omegaconf", "codetiming", "orjson")
"""What verl's correction helper imports and we do not have. Of verl's other requirements it needs none."""
INSTALL_SECONDS = 1800.0
STAMP = "installed.txt"
"""Written last, with what was installed: a directory without it, or with other pins, is made anew."""


def default_cache() -> Path:
    """Where peers are kept unless the caller says otherwise: below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ais" / "peers"


def trl_python(cache: Path) -> Path:
    """The interpreter of an environment with TRL, and torch and transformers as they are here.

    Raises UnavailableError where it cannot be installed.
    """
    pins = [f"trl=={TRL}", *(f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers"))]
    directory = cache / f"trl-{TRL}"
    python = directory / "bin" / "python"
    if not _is_installed(directory, pins):
        shutil.rmtree(directory, ignore_errors=True)
        venv.create(directory)
        _pip([sys.executable, "-m", "pip", "--python", str(python), "install"], pins, directory)
    return python


def verl_directory(cache: Path) -> Path:
    """A directory that makes verl's correction helper importable for the interpreter that runs this.

    Raises UnavailableError where it cannot be installed.
    """
    pins = [f"verl=={VERL}", *VERL_NEEDS]
    directory = cache / f"verl-{VERL}"
    if not _is_installed(directory, pins):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(directory), "--upgrade"]
        _pip(pip, pins, directory)
    return directory


def _is_installed(directory: Path, pins: Sequence[str]) -> bool:
    stamp = directory / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8").split() == list(pins)


def _pip(command: Sequence[str], pins: Sequence[str], directory: Path) -> None:
    print(f"installing {pins[0]} into {directory}, once", file=sys.stderr)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, "--quiet", *pins],
        env=environment,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UnavailableError(
            f"{pins[0]} cannot be installed into {directory}: {(errors or ['pip failed'])[0]}. It needs a package "
            "index that pip knows. --cache names a directory where it was installed before; --contenders fp8,bf16 goes "
            "without peers"
        )
    (directory / STAMP).write_text("\n".join(pins) + "\n", encoding="utf-8")
