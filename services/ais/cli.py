"""`ais ...`: the command line. It knows all settings, and the services as processes.

What a command needs is imported inside it: `ais --help` and a misspelt setting answer at once.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ais import deadletter
from ais.helping import HelpGroup
from ais.runtime.exits import EXIT_PIPE_CLOSED, EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.output import discard_output, print_anything
from ais.runtime.settings import SettingsError

if TYPE_CHECKING:
    from ais.launcher.directory.run_directory import RunDirectory
    from ais.settings import Settings

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

app.add_typer(deadletter.app, name="deadletter")

Config = Annotated[Path | None, typer.Option("-c", "--config", help="TOML settings file.", metavar="FILE")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override one setting; may be repeated.", metavar="KEY=VALUE")
]


def main() -> None:
    """Console script `ais`. Its exit codes are those of `ais.runtime.exits`."""
    print_anything()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SettingsError as error:
        _fail(str(error), EXIT_SETTINGS)
    except BrokenPipeError:  # whoever read our output has enough
        discard_output()
        sys.exit(EXIT_PIPE_CLOSED)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        print(f"ais {installed_version('ais-rl')}, Python {platform.python_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(EXIT_SETTINGS)


@app.command()
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


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="Name of a run, or its directory.", metavar="RUN")],
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

    sys.exit(go_on(_existing_run(run, None, None), overrides or []))


@app.command()
def chaos(
    kills: Annotated[int, typer.Option(min=1, help="Processes to kill, one after another.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Draws the victims and the moments.")] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the verdict there, as JSON.")] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Train twice, once in calm and once with every process killed (SIGKILL) at random moments; compare.

    Trainer, collector, each replica and the Valkey server are killed in turn. The run must end by itself, its ledger
    must show every group consumed exactly once, and its final reward must be the calm run's, within one standard
    deviation. The exit code is 0 if all that holds, else 1. It takes about ten seconds a kill.

        ais chaos -c examples/sort16/config.toml
        ais chaos -c examples/sort16/config.toml --kills 6 --set run.steps=20 --set launcher.evaluation_prompts=0
    """
    from ais.settings import load

    settings = load(config, overrides or ())
    if settings.redis.url:
        _fail("chaos kills the server of its own: leave redis.url empty", EXIT_SETTINGS)
    from ais.trials import chaos_settings

    sys.exit(chaos_settings(settings, kills, seed, output))


@app.command()
def rollout(config: Config = None, overrides: Overrides = None) -> None:
    """Run one rollout replica: it samples responses in low precision, over gRPC, and takes new weights over HTTP.

    ais rollout -c config.toml --set redis.url=redis://queue:6379/0
    """
    _become_service("rollout", config, overrides)


@app.command()
def collector(config: Config = None, overrides: Overrides = None) -> None:
    """Run the collector: it sends prompts to the replicas, scores responses and queues groups for the trainer.

    ais collector -c config.toml --set redis.url=redis://queue:6379/0
    """
    _become_service("collector", config, overrides)


@app.command()
def trainer(config: Config = None, overrides: Overrides = None) -> None:
    """Run the trainer: it takes BF16 policy-gradient steps with AIS and pushes every new version to the replicas.

    ais trainer -c config.toml --set redis.url=redis://queue:6379/0
    ais trainer -c config.toml --set trainer.ranks.count=8
    """
    from ais.launcher.processes.commands import TrainerRanks, trainer_command

    settings, arguments = _service_arguments(config, overrides)
    _become(
        trainer_command(TrainerRanks(settings.trainer.ranks.count, settings.trainer.ranks.max_restarts), *arguments)
    )


@app.command()
def compare(
    config: Config = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells trained side by side; otherwise one a core.", show_default=False)
    ] = None,
    cells: Annotated[bool, typer.Option("--cells", help="Print the cells and which are done, and end.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write the results of the cells that are done.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="Print the effective settings, and end.")] = False,
    overrides: Overrides = None,
) -> None:
    """Compare corrections, number formats and tasks over seeds: every combination is a cell, trained by itself.

    The file is a run's settings, common to all cells, and a section [compare] that says what varies:

        ais compare -c benchmarks/compare/small.toml

    A cell is done once: killed at any moment, the same command goes on with those that are left, and more seeds or
    methods in the file add cells to those that are there. Everything is kept in runs/NAME: cells.jsonl, a line for
    each cell done, and what comes of them: summary.csv, summary.md, cells.csv, steps.csv, steps.parquet, report.html.

        ais compare -c FILE --cells
        ais compare -c FILE --settings
        ais compare -c FILE --set compare.seeds=5 --workers 2
        ais compare -c FILE --set 'compare.methods=["none", {method = "tis", level = "sequence"}, "ais"]'
        ais compare -c FILE --report
    """
    from ais.comparison.settings import load_comparison
    from ais.settings import to_toml

    comparison = load_comparison(config, overrides or ())
    if settings:
        print(to_toml(comparison), end="")
        return
    from ais.comparison.command import compare_settings, list_cells

    if cells:
        sys.exit(list_cells(comparison))
    again = shlex.join(["ais", "compare", *sys.argv[2:]])
    sys.exit(compare_settings(comparison, again, workers, report))


@app.command(name="eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help="Hugging Face model directory.", metavar="MODEL_DIR")],
    precision: Annotated[
        str, typer.Option(help="Weight format to sample in: bf16, e4m3, e5m2, int8 or e2m1.", metavar="FORMAT")
    ] = "bf16",
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts, one response each.")] = 512,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Score a saved model on held-out prompts: mean reward and its standard error.

    A real rollout replica samples the responses. The prompts are those that no training run draws.

        ais eval runs/demo/checkpoints/step-000150
        ais eval runs/demo/checkpoints/step-000150 --precision e4m3 -c runs/demo/config.toml
    """
    from ais.settings import load

    formats = [f"rollout.precision.weights={precision}"]
    formats += ["rollout.precision.kv_cache=bf16"] if precision == "bf16" else []
    name = f"eval-{os.getpid()}-{time.time_ns()}"  # not to meet another run's keys on a shared Redis
    settings = load(config, [*(overrides or ()), *formats, f"run.model={model}", f"run.name={name}"])
    from ais.trials import evaluate_settings

    sys.exit(evaluate_settings(settings, prompts))


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Name of a run, or its directory.", metavar="RUN")],
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Write a run's report.html: what ran, its figures and plots, in one file. An unfinished run has one too.

    ais report demo
    ais report runs/demo-2
    """
    from ais.launcher.report import write_report

    directory = _existing_run(run, config, overrides)
    try:
        print(write_report(directory))
    except OSError as error:
        _fail(f"the report cannot be written: {directory.report}: {error.strerror}", EXIT_UNAVAILABLE)


@app.command()
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

    directory = _existing_run(run, config, overrides)
    if not is_driven(directory):
        _fail(f"no `ais run` is at work in {directory.path}", EXIT_UNAVAILABLE)
    before = asked(directory.replicas)
    try:
        ask(directory.replicas, replicas)
    except OSError as error:
        _fail(f"the run cannot be told: {directory.replicas}: {error.strerror}", EXIT_UNAVAILABLE)
    was = f" (asked for before: {before})" if before is not None else ""
    print(f"{directory.path} is to have {replicas} rollout replicas{was}; its screen shows when they are ready")


@app.command(name="config")
def show_config(config: Config = None, overrides: Overrides = None) -> None:
    """Print the effective settings as a TOML file, each with its documentation.

    ais config
    ais config -c examples/sort16/config.toml --set run.steps=5 > my.toml
    """
    from ais.settings import load, to_toml

    print(to_toml(load(config, overrides or ())), end="")


@app.command()
def warmstart(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Hugging Face directory to write.", metavar="DIR")
    ] = Path("examples/sort16/model"),
    task: Annotated[str, typer.Option(help="sortN: sort N digits.")] = "sort16",
    noise: Annotated[float, typer.Option(min=0, max=1, help="Share of the answers' digits made wrong.")] = 0.08,
    steps: Annotated[int, typer.Option(min=1, help="Supervised steps.")] = 600,
    batch_size: Annotated[int, typer.Option(min=1, help="Demonstrations a step.")] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Make the small policy the demo starts from: supervised on noisy demonstrations, about two minutes.

    ais warmstart -o examples/sort16/model
    """
    from ais.launcher.warmstart import warm_start

    sys.exit(warm_start(output, task=task, noise=noise, steps=steps, batch_size=batch_size, seed=seed))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
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
    folder = Path(__file__).parents[2] / "benchmarks"
    known = sorted(path.stem for path in folder.glob("[a-z]*.py"))
    if name not in known:
        there = ", ".join(known) or "none here: they are in the repository, not in the installed package"
        _fail(f"there is no benchmark {name}; there are: {there}", EXIT_SETTINGS)
    path = os.pathsep.join(filter(None, (str(folder.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", f"benchmarks.{name}", *context.args]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})


def _become_service(name: str, config: Path | None, overrides: list[str] | None) -> NoReturn:
    from ais.launcher.processes.commands import module

    _, arguments = _service_arguments(config, overrides)
    _become(module(f"ais.{name}", *arguments))


def _service_arguments(config: Path | None, overrides: list[str] | None) -> tuple[Settings, list[str]]:
    """Checks the settings, all of them, before the service spends seconds on importing its libraries.

    The URL of Redis is handed on in the environment, where other users of the machine cannot read its password.
    """
    from ais.launcher.processes.commands import redis_environment
    from ais.settings import load

    settings = load(config, overrides or ())
    os.environ.update(redis_environment(settings.redis.url))
    arguments = ["-c", str(config)] if config else []
    for override in overrides or ():
        if override.partition("=")[0].strip() != "redis.url":
            arguments += ["--set", override]
    return settings, arguments


def _become(command: tuple[str, ...]) -> NoReturn:
    os.execv(command[0], command)


def _existing_run(run: str, config: Path | None, overrides: list[str] | None) -> RunDirectory:
    from ais.launcher.directory.run_directory import RunDirectory
    from ais.settings import load

    directory = Path(run) if Path(run).is_dir() else load(config, overrides or ()).run.directory / run
    if not (directory / "config.toml").is_file():
        _fail(f"there is no run in {directory}: expected its config.toml", EXIT_UNAVAILABLE)
    return RunDirectory(directory)


def _fail(message: str, code: int) -> NoReturn:
    print(f"ais: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
