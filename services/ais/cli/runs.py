"""Commands about runs: begin one, go on with it, look at it, scale it, torture it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ais.cli.options import Config, Overrides, RunName, existing_run, fail
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE


def run(config: Config = None, overrides: Overrides = None) -> None:
    """Train on this machine: queue, rollout replicas, collector and trainer, each a process; then evaluate and report.

    Everything is kept in runs/NAME: settings, logs, steps, checkpoints, report.html. Ctrl-C ends it all;
    `ais resume NAME` goes on.

        ais run -c examples/sort16/config.toml
        ais run -c examples/sort16/config.toml --set run.steps=5 --set rollout.replicas=3
        ais run -c examples/sort16/config.toml --set rollout.precision.weights=bf16
    """
    from ais.settings import load

    settings = load(config, overrides or ())
    from ais.running import begin

    _directory, code = begin(settings)
    sys.exit(code)


def resume(
    run: RunName,
    overrides: Overrides = None,
) -> None:
    """Go on with a run that was stopped or killed, from its newest checkpoint, with its own settings.

    What was queued is still there; steps after the checkpoint are trained again, to the same result. A run that was
    trained but not evaluated is evaluated. Settings may change, but for those that make it another run (its model, its
    prompts, the size of its batches); a refused change leaves everything as it was.

        ais resume demo
        ais resume runs/demo --set run.steps=300
    """
    from ais.running import go_on

    sys.exit(go_on(existing_run(run, None, None), overrides or []))


def prepare(config: Config = None, overrides: Overrides = None) -> None:
    """Make a run ready whose services are started one by one, as containers are: `ais run` does this by itself.

    The settings are checked, all of them, with the model, the prompts and the libraries they need; a start policy is
    made where the settings ask for it; runs/NAME gets its settings file. A run that is there already goes on.

        ais prepare -c examples/sort16/config.toml --set redis.url=redis://queue:6379/0
    """
    from ais.attending import prepare as prepare_run
    from ais.settings import load

    sys.exit(prepare_run(load(config, overrides or ())))


def conclude(config: Config = None, overrides: Overrides = None) -> None:
    """Wait for the end of a run whose services are started one by one; then evaluate its checkpoints and report.

    ais conclude -c examples/sort16/config.toml --set redis.url=redis://queue:6379/0
    """
    from ais.attending import conclude as conclude_run
    from ais.settings import load

    sys.exit(conclude_run(load(config, overrides or ())))


def chaos(
    kills: Annotated[int, typer.Option(min=1, help="Processes to kill, one after another.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Draws the victims and the moments.")] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the verdict there, as JSON.")] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Train twice, once in calm and once with every process killed (SIGKILL) at random moments; compare.

    Trainer, collector, each replica and the Valkey server are killed in turn, and where there are any, agents of
    launcher.agents, workers of the collector and programs that play episodes. The run must end by itself, its ledger
    must show every group consumed exactly once, and its final reward must be the calm run's, within one standard
    deviation. The exit code is 0 if all that holds, else 1. It takes about ten seconds a kill.

        ais chaos -c examples/sort16/config.toml
        ais chaos -c examples/sort16/config.toml --kills 6 --set run.steps=20 --set launcher.evaluation_prompts=0
    """
    from ais.settings import load

    settings = load(config, overrides or ())
    if settings.redis.url:
        fail("chaos kills the server of its own: leave redis.url empty", EXIT_SETTINGS)
    from ais.trials import chaos_settings

    sys.exit(chaos_settings(settings, kills, seed, output))


def report(
    run: RunName,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Write a run's report.html: what ran, its figures and plots, in one file. An unfinished run has one too.

    ais report demo
    ais report runs/demo-2
    """
    from ais.launcher.report import write_report

    directory = existing_run(run, config, overrides)
    try:
        print(write_report(directory))
    except OSError as error:
        fail(f"the report cannot be written: {directory.report}: {error.strerror}", EXIT_UNAVAILABLE)


def console(
    run: RunName,
    other: Annotated[
        str | None, typer.Option("--with", help="A second run to compare it with: name or directory.", metavar="RUN")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 0,
    prometheus: Annotated[
        str | None,
        typer.Option(help="Address of a Prometheus whose alerts it shows; none is asked else.", metavar="URL"),
    ] = None,
    prometheus_token: Annotated[
        Path | None, typer.Option(help="File with the bearer token that this Prometheus asks for.", metavar="FILE")
    ] = None,
    prometheus_ca: Annotated[
        Path | None, typer.Option(help="Certificate authority of this Prometheus; else the system's.", metavar="FILE")
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Show a run in the browser, live or finished: a page with its plots, samples, events and logs. It only reads.

    It listens on this machine alone and prints the address to open, which has a token in it. Ctrl-C ends it, not the
    run.

        ais console demo
        ais console demo --with demo-2 --port 8765
        ais console demo --prometheus http://127.0.0.1:9090
    """
    from ais.console.alerts import Prometheus, PrometheusAddressError
    from ais.console.command import show
    from ais.runtime.process import UnavailableError

    directory = existing_run(run, config, overrides)
    beside = existing_run(other, config, overrides) if other else None
    try:
        asked = Prometheus(prometheus, prometheus_token, prometheus_ca) if prometheus else None
        show(directory, beside, port, asked)
    except PrometheusAddressError as error:
        fail(str(error), EXIT_SETTINGS)
    except UnavailableError as error:
        fail(str(error), EXIT_UNAVAILABLE)


def trace(
    run: RunName,
    group: Annotated[str, typer.Argument(help="A group's id, such as demo-37-1, or an ordinal.", metavar="GROUP")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Say where a group spent its time, from its prompt to the optimizer step that trained it, and what logs say of it.

    Its id is RUN-ORDINAL-ATTEMPT, in steps.jsonl, samples' ordinals, dead letters and every log line about it. A run
    that goes on is asked where a group is now.

        ais trace demo demo-37-1
        ais trace demo 37 --json
    """
    from ais.tracing.command import show_trace
    from ais.tracing.search import NoGroupIdError, UnknownGroupError

    directory = existing_run(run, config, overrides)
    try:
        show_trace(directory, group, overrides or [], json_wanted=as_json)
    except NoGroupIdError as error:
        fail(str(error), EXIT_SETTINGS)
    except UnknownGroupError as error:
        fail(str(error), EXIT_UNAVAILABLE)


def track(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes, until stopped.")] = False,
    overrides: Overrides = None,
) -> None:
    """Tell TensorBoard, wandb or trackio what a run has written, finished or not; tracking.trackers says which.

    `ais run` does so by itself. Telling again changes nothing.

        ais track demo
        ais track demo --set 'tracking.trackers=["tensorboard"]'
    """
    from ais.trials import track_run

    sys.exit(track_run(existing_run(run, None, None), overrides or [], follow))


def scale(
    run: Annotated[str, typer.Argument(help="Name of a run that goes on, or its directory.", metavar="RUN")],
    replicas: Annotated[int, typer.Argument(min=1, help="Rollout replicas it is to have.", metavar="REPLICAS")],
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Change how many rollout replicas a run of `ais run` has, while it goes on.

    A new replica is sent the newest weights before it gets work. One that ends finishes what it can within
    rollout.drain_seconds and hands back the rest, which others sample. `ais resume` starts with rollout.replicas again.

        ais scale demo 4
    """
    from ais.launcher.directory.lock import is_driven
    from ais.launcher.directory.scaling import ask, asked

    directory = existing_run(run, config, overrides)
    if not is_driven(directory):
        fail(f"no `ais run` is at work in {directory.path}", EXIT_UNAVAILABLE)
    before = asked(directory.replicas)
    try:
        ask(directory.replicas, replicas)
    except OSError as error:
        fail(f"the run cannot be told: {directory.replicas}: {error.strerror}", EXIT_UNAVAILABLE)
    was = f" (asked for before: {before})" if before is not None else ""
    print(f"{directory.path} is to have {replicas} rollout replicas{was}; its screen shows when they are ready")
