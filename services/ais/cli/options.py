"""What several commands share: their options, how a run is named, how a command fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ais.runtime.exits import EXIT_UNAVAILABLE

if TYPE_CHECKING:
    from ais.launcher.directory.run_directory import RunDirectory

Config = Annotated[Path | None, typer.Option("-c", "--config", help="TOML settings file.", metavar="FILE")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override one setting; may be repeated.", metavar="KEY=VALUE")
]
RunName = Annotated[str, typer.Argument(help="Name of a run, or its directory.", metavar="RUN")]


def find_run(run: str, config: Path | None, overrides: list[str] | None) -> RunDirectory | None:
    """The run of that name, or in that directory; None where there is none."""
    from ais.launcher.directory.run_directory import RunDirectory
    from ais.settings import load

    directory = Path(run) if Path(run).is_dir() else load(config, overrides or ()).run.directory / run
    return RunDirectory(directory) if (directory / "config.toml").is_file() else None


def existing_run(run: str, config: Path | None, overrides: list[str] | None) -> RunDirectory:
    """The run that a command line names. Ends the process where there is none."""
    from ais.settings import load

    if (directory := find_run(run, config, overrides)) is None:
        place = Path(run) if Path(run).is_dir() else load(config, overrides or ()).run.directory / run
        fail(f"there is no run in {place}: expected its config.toml", EXIT_UNAVAILABLE)
    return directory


def fail(message: str, code: int) -> NoReturn:
    """Says what went wrong and ends the process with `code`."""
    print(f"ais: {message}", file=sys.stderr)
    sys.exit(code)
