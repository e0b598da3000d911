"""Commands beside the runs: a directory to begin with, the effective settings, the benchmarks."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ais.cli.options import Config, Overrides, fail
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE


def init(
    name: Annotated[
        str, typer.Argument(help="Example to begin with; without it they are listed.", metavar="NAME")
    ] = "",
    directory: Annotated[
        Path | None, typer.Argument(help="Directory to write; by default NAME, here.", metavar="DIRECTORY")
    ] = None,
) -> None:
    """Write a directory to begin with: an example's commented settings and what they need. Nothing is written over.

    ais init
    ais init own_data my-problem
    """
    from ais.beginnings import descriptions, examples_directory, write_beginning
    from ais.runtime.process import UnavailableError

    try:
        examples = examples_directory()
        if not name:
            known = descriptions(examples)
            width = max(map(len, known))
            print("\n".join(f"{one:{width}}  {text}" for one, text in known.items()))
            return
        target = directory or Path(name)
        for path in write_beginning(examples, name, target):
            print(path)
    except UnavailableError as error:
        fail(str(error), EXIT_UNAVAILABLE)
    print(f"\nais run -c {shlex.quote(str(target / 'config.toml'))}")


def secrets(
    directory: Annotated[Path, typer.Argument(help="Directory to make.", metavar="DIR")],
    renew: Annotated[
        int | None,
        typer.Option(min=0, max=3650, help="Replace certificates that end within this many days.", metavar="DAYS"),
    ] = None,
) -> None:
    """Make tokens, certificates and Redis passwords of services on several machines, a directory for each service.

    What is there is never replaced, but for certificates that --renew names.

        ais secrets secrets
        ais secrets secrets --renew 30
        ais rollout -c run.toml --set security.tokens=secrets/rollout --set security.certificates=secrets/rollout
    """
    from datetime import timedelta

    from ais.issuing import issue
    from ais.runtime.process import UnavailableError
    from ais.runtime.settings import SettingsError

    try:
        for path in issue(directory, None if renew is None else timedelta(days=renew)):
            print(path)
    except SettingsError as error:
        fail(str(error), EXIT_SETTINGS)
    except UnavailableError as error:
        fail(str(error), EXIT_UNAVAILABLE)
    print("everything is there: docs/security.md says who needs what")


def show_config(config: Config = None, overrides: Overrides = None) -> None:
    """Print the effective settings as a TOML file, each with its documentation.

    ais config
    ais config -c examples/sort16/config.toml --set run.steps=5 > my.toml
    """
    from ais.settings import load, to_toml

    print(to_toml(load(config, overrides or ())), end="")


def metrics() -> None:
    """Print the catalogue of metrics: what each is, and what to do when it looks wrong. docs/metrics.md is this.

    ais metrics > docs/metrics.md
    """
    from ais.catalogue import document

    print(document(), end="")


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Benchmark to run; the rest of the line goes to it.", metavar="NAME")],
) -> None:
    """Run a benchmark of `benchmarks/` and print its table.

    ais bench rollout
    ais bench train --help
    """
    if name == "--help":  # before NAME it is this command's; after it, the benchmark's
        print(context.get_help())
        raise typer.Exit
    folder = Path(__file__).parents[3] / "benchmarks"
    files, folders = folder.glob("[a-z]*.py"), folder.glob("*/__main__.py")
    known = sorted([*(path.stem for path in files), *(path.parent.name for path in folders)])
    if name not in known:
        there = ", ".join(known) or "none here: they are in the repository, not in the installed package"
        fail(f"there is no benchmark {name}; there are: {there}", EXIT_SETTINGS)
    path = os.pathsep.join(filter(None, (str(folder.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", f"benchmarks.{name}", *context.args]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})
