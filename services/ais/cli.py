"""`ais ...`: the command line. It knows all settings, and the services as processes.

What a command needs is imported inside it: `ais --help` and a misspelt setting answer at once.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ais import deadletter
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.settings import SettingsError

if TYPE_CHECKING:
    from ais.launcher.directory.run_directory import RunDirectory
    from ais.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Reinforcement learning on language models with FP8 rollouts, kept honest by Adaptive Importance Sampling.

    Settings come from a TOML file (`-c`), from the environment (`AIS_RUN__STEPS=5`) and from `--set run.steps=5`;
    later ones win. `ais config` lists them all.
    """,
)

app.add_typer(deadletter.app, name="deadletter")

Config = Annotated[Path | None, typer.Option("-c", "--config", help="TOML settings file.", metavar="FILE")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override one setting; may be repeated.", metavar="KEY=VALUE")
]


def main() -> None:
    """Console script `ais`. Exit codes: 0 done, 1 failed, 2 wrong settings or usage, 3 something needed is missing."""
    try:
        app()
    except SettingsError as error:
        _fail(str(error), EXIT_SETTINGS)


@app.command()
def run(config: Config = None, overrides: Overrides = None) -> None:
    """Train on this machine: queue, rollout replicas, collector and trainer, each a process; then evaluate and report.

    Everything is kept in `runs/NAME`: settings, logs, steps, checkpoints, `report.html`. Ctrl-C ends it all;
    `ais resume NAME` goes on.

        ais run -c examples/sort16/config.toml

        ais run -c examples/sort16/config.toml --set run.steps=5 --set rollout.replicas=3

        ais run -c examples/sort16/config.toml --set rollout.precision.weights=bf16
    """
    from ais.running import fresh_run, run_settings
    from ais.settings import load

    settings = load(config, overrides or ())
    _require_model(settings.run.model)
    settings, directory = fresh_run(settings)
    sys.exit(run_settings(settings, directory))


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="Name of a run, or its directory.", metavar="RUN")],
    overrides: Overrides = None,
) -> None:
    """Go on with a run that was stopped or killed, from its newest checkpoint, with its own settings.

    What was queued is still there; steps after the checkpoint are trained again, to the same result.

        ais resume demo

        ais resume runs/demo --set run.steps=300
    """
    from ais.running import run_settings
    from ais.settings import load, to_toml

    directory = _existing_run(run, None, None)
    settings = load(directory.config, overrides or ())
    where = {"name": directory.name, "directory": directory.path.parent}
    settings = settings.model_copy(update={"run": settings.run.model_copy(update=where)})
    _require_model(settings.run.model)
    directory.config.write_text(to_toml(settings))
    sys.exit(run_settings(settings, directory))


@app.command()
def chaos(
    kills: Annotated[int, typer.Option(min=1, help="Processes to kill, one after another.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Of the victims and the moments.")] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the verdict there, as JSON.")] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Train twice, once in calm and once with every process killed (SIGKILL) at random moments; compare.

    Trainer, collector, each replica and the Valkey server are killed in turn. The run must end by itself, its ledger
    must show every group consumed exactly once, and its final reward must be the calm run's, within one standard
    deviation. Exit code 0 says that it is so, 1 what is not. It takes about ten seconds a kill.

        ais chaos -c examples/sort16/config.toml

        ais chaos -c examples/sort16/config.toml --kills 6 --set run.steps=20 --set launcher.evaluation_prompts=0
    """
    from ais.running import chaos_settings
    from ais.settings import load

    settings = load(config, overrides or ())
    _require_model(settings.run.model)
    if settings.redis.url:
        _fail("chaos kills the server of its own: leave redis.url empty", EXIT_SETTINGS)
    sys.exit(chaos_settings(settings, kills, seed, output))


@app.command()
def rollout(config: Config = None, overrides: Overrides = None) -> None:
    """Run one rollout replica: samples responses in low precision, over gRPC; takes new weights over HTTP.

    ais rollout -c config.toml --set redis.url=redis://queue:6379/0
    """
    _become_service("rollout", config, overrides)


@app.command()
def collector(config: Config = None, overrides: Overrides = None) -> None:
    """Run the collector: sends prompts to the replicas, scores responses, queues complete groups for the trainer.

    ais collector -c config.toml --set redis.url=redis://queue:6379/0
    """
    _become_service("collector", config, overrides)


@app.command()
def trainer(config: Config = None, overrides: Overrides = None) -> None:
    """Run the trainer: BF16 policy gradient with AIS on queued groups; pushes every new version to the replicas.

    ais trainer -c config.toml --set redis.url=redis://queue:6379/0
    ais trainer -c config.toml --set trainer.ranks.count=8
    """
    from ais.launcher.processes.commands import TrainerRanks, trainer_command

    settings, arguments = _service_arguments(config, overrides)
    _become(
        trainer_command(TrainerRanks(settings.trainer.ranks.count, settings.trainer.ranks.max_restarts), *arguments)
    )


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

    The responses are sampled by a real rollout replica, the prompts are those no training run draws.

        ais eval runs/demo/checkpoints/step-000150

        ais eval runs/demo/checkpoints/step-000150 --precision e4m3 -c runs/demo/config.toml
    """
    from ais.running import evaluate_settings
    from ais.settings import load

    formats = [f"rollout.precision.weights={precision}"]
    formats += ["rollout.precision.kv_cache=bf16"] if precision == "bf16" else []
    name = f"eval-{os.getpid()}-{time.time_ns()}"  # of its own on a Redis that others use too
    settings = load(config, [*(overrides or ()), *formats, f"run.model={model}", f"run.name={name}"])
    _require_model(model)
    sys.exit(evaluate_settings(settings, prompts))


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Name of a run, or its directory.", metavar="RUN")],
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Write a run's `report.html`: what ran, its figures and plots, in one file. An unfinished run has one too.

    ais report demo
    ais report runs/demo-2
    """
    from ais.launcher.report import write_report

    print(write_report(_existing_run(run, config, overrides)))


@app.command()
def scale(
    run: Annotated[str, typer.Argument(help="Name of a run that goes on, or its directory.", metavar="RUN")],
    replicas: Annotated[int, typer.Argument(min=1, help="Rollout replicas it is to have.", metavar="REPLICAS")],
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Change how many rollout replicas a run of `ais run` has, while it goes on.

    A new one is sent the newest weights before it gets work; one that ends finishes what it can within
    `rollout.drain_seconds` and hands back the rest, which others sample.

        ais scale demo 4
    """
    from ais.launcher.directory.lock import is_held
    from ais.launcher.directory.scaling import ask

    directory = _existing_run(run, config, overrides)
    if not is_held(directory.lock):
        _fail(f"no `ais run` is at work in {directory.path}", EXIT_UNAVAILABLE)
    ask(directory.replicas, replicas)


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
    """Checks the settings, all of them, before the service spends seconds on importing its libraries."""
    from ais.settings import load

    settings = load(config, overrides or ())
    arguments = ["-c", str(config)] if config else []
    for override in overrides or ():
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


def _require_model(model: Path) -> None:
    if not (model / "config.json").is_file():
        hint = "`ais warmstart` makes the demo's" if not model.exists() else "it has no config.json"
        _fail(f"run.model: {model} is not a Hugging Face model directory ({hint})", EXIT_UNAVAILABLE)


def _fail(message: str, code: int) -> NoReturn:
    print(f"ais: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
