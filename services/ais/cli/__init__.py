"""`ais ...`: the command line. It knows all settings, and the services as processes.

What a command needs is imported inside it: `ais --help` and a misspelt setting answer at once.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from ais import deadletter
from ais.cli import comparison, models, planning, runs, services, workshop
from ais.cli.options import fail
from ais.helping import HelpGroup
from ais.runtime.exits import EXIT_PIPE_CLOSED, EXIT_SETTINGS
from ais.runtime.output import discard_output, print_anything
from ais.runtime.settings import SettingsError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=HelpGroup,
    help="""Reinforcement learning on language models with FP8 rollouts, kept honest by Adaptive Importance Sampling.

    Settings come from a TOML file (-c), from the environment (AIS_RUN__STEPS=5) and from --set run.steps=5; later ones
    win. `ais config` lists them all, with what each means and may be.
    """,
)

for command in (
    runs.run,
    runs.resume,
    runs.chaos,
    services.rollout,
    services.collector,
    services.agent,
    services.trainer,
):
    app.command()(command)
app.command()(runs.prepare)
app.command()(runs.conclude)
app.command()(comparison.compare)
app.command(name="eval")(models.evaluate)
app.command()(models.chat)
app.command()(runs.report)
app.command()(runs.console)
app.command()(runs.trace)
app.command()(runs.track)
app.command()(runs.scale)
app.command()(workshop.init)
app.command()(planning.plan)
app.command()(workshop.secrets)
app.command()(services.data)
app.command(name="config")(workshop.show_config)
app.command()(workshop.metrics)
app.command()(models.warmstart)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(workshop.bench)
app.add_typer(deadletter.app, name="deadletter")


def main() -> None:
    """Console script `ais`. Its exit codes are those of `ais.runtime.exits`."""
    print_anything()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SettingsError as error:
        fail(str(error), EXIT_SETTINGS)
    except BrokenPipeError:  # whoever read our output has enough
        discard_output()
        sys.exit(EXIT_PIPE_CLOSED)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        print(f"ais {installed_version('ais-rl')}, Python {platform.python_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(EXIT_SETTINGS)
