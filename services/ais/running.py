"""What `ais run`, `resume`, `chaos` and `eval` do once their settings are checked; each gives an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from ais.launcher.chaos import Chaos, Verdict, judge
from ais.launcher.directory.lock import held
from ais.launcher.directory.run_directory import RunDirectory, fresh_run_directory
from ais.launcher.directory.steps import StepLog
from ais.launcher.display import Display, open_display
from ais.launcher.processes.commands import TrainerRanks, service_commands
from ais.launcher.processes.processes import Processes, ProcessFailedError
from ais.launcher.processes.signals import run_cancellable
from ais.launcher.report import write_report
from ais.launcher.report.results import read_results
from ais.launcher.report.summary import print_summary
from ais.launcher.run import Plan, run, score_model
from ais.runtime.exits import EXIT_FAILED, EXIT_UNAVAILABLE
from ais.runtime.process import UnavailableError
from ais.runtime.redis import RedisUnreachableError
from ais.settings import Settings, to_toml

Beside = Callable[[Display], Callable[[Processes], Coroutine[Any, Any, None]]]
"""What goes on beside training, given the run's display."""


def fresh_run(settings: Settings) -> tuple[Settings, RunDirectory]:
    """A new run directory with the settings in it, and the settings with the name that it got."""
    directory = fresh_run_directory(settings.run.directory, settings.run.name)
    if directory.name != settings.run.name:
        print(f"{settings.run.path} is an earlier run's; this one is {directory.path}")
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"name": directory.name})})
    directory.config.write_text(to_toml(settings))
    return settings, directory


def run_settings(settings: Settings, directory: RunDirectory, beside: Beside | None = None) -> int:
    """Trains, evaluates, writes the report and prints the summary."""
    precision = settings.rollout.precision
    console = Console()

    def plan(lock: int) -> Plan:
        return Plan(
            directory=directory,
            total_steps=settings.run.steps,
            quantised=precision.weights != "bf16",
            redis=settings.redis,
            launcher=settings.launcher,
            services=partial(
                service_commands,
                directory.config,
                replicas=settings.rollout.replicas,
                trainer=TrainerRanks(settings.trainer.ranks.count, settings.trainer.ranks.max_restarts),
            ),
            lock=lock,
        )

    async def main() -> int:
        async with held(directory.lock) as lock:
            title = f"{directory.path}: rollouts {precision}, correction {settings.correction.method}"
            display = open_display(console, title)
            await run(plan(lock), display, beside(display) if beside else None)
        return 0

    if code := _ended(main()):
        print(
            f"what there is: {directory.path}; `ais report {directory.path}` draws it, `ais resume {directory.path}` "
            "goes on",
            file=sys.stderr,
        )
        return code
    write_report(directory)
    print_summary(console, read_results(directory))
    return 0


def chaos_settings(settings: Settings, kills: int, seed: int, output: Path | None) -> int:
    """Runs in calm and under fire, and prints the verdict."""
    made: list[Chaos] = []

    def fire(directory: RunDirectory) -> Beside:
        def beside(display: Display) -> Callable[[Processes], Coroutine[Any, Any, None]]:
            made.append(Chaos(kills, settings.run.steps, seed, display, StepLog(directory.steps)))
            return made[0].run

        return beside

    directories = []
    for name in ("calm", "chaos"):
        run_of = {"name": f"{settings.run.name}-{name}"}
        # Killed as often as it is here, a process would be given up.
        launcher = settings.launcher.model_copy(update={"deaths_limit": settings.launcher.deaths_limit + kills})
        update = {"run": settings.run.model_copy(update=run_of), "launcher": launcher}
        of_this, directory = fresh_run(settings.model_copy(update=update))
        if code := run_settings(of_this, directory, fire(directory) if name == "chaos" else None):
            return code
        directories.append(directory)
    calm, chaos = map(read_results, directories)
    verdict = judge(calm, chaos, made[0].done, kills)
    _print_verdict(verdict)
    if output is not None:
        output.write_text(json.dumps(verdict.as_json(), indent=1) + "\n")
    return EXIT_FAILED if verdict.problems else 0


def _print_verdict(verdict: Verdict) -> None:
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
    table.add_row("killed", ", ".join(f"{name} {count}x" for name, count in sorted(verdict.kills.items())))
    table.add_row("trainers, one after another", str(verdict.trainers))
    reward = f"{verdict.reward_chaos:.3f}; calm {verdict.reward_calm:.3f} ± {verdict.reward_spread:.3f}"
    table.add_row("final training reward", reward)
    for name, score in verdict.held_out.items():
        table.add_row(f"held-out reward, {name}", score)
    table.add_row("training", f"{verdict.seconds_chaos:.0f} s; calm {verdict.seconds_calm:.0f} s")
    table.add_row("history", "whole: every group consumed exactly once" if not verdict.problems else "")
    for problem in verdict.problems:
        table.add_row("[red]wrong[/red]", problem)
    Console().print(table)


def evaluate_settings(settings: Settings, prompts: int) -> int:
    """Scores the model of the settings on held-out prompts and prints what came of it."""
    temperature = settings.collector.sampling.temperature

    async def main() -> int:
        results = await score_model(directory, settings.redis, settings.launcher, prompts)
        for precision, scores in results.evaluations.items():
            print(f"reward {scores[0]}  ({precision}, {prompts} held-out prompts, temperature {temperature:g})")
        return 0

    with TemporaryDirectory(prefix="ais-eval-") as parent:
        directory = RunDirectory(Path(parent) / settings.run.name)
        directory.path.mkdir()
        directory.config.write_text(to_toml(settings))
        return _ended(main())


def _ended(main: Coroutine[Any, Any, int]) -> int:
    """Runs what may be ended by a signal; failures are told, not raised."""
    try:
        return run_cancellable(main)
    except (UnavailableError, RedisUnreachableError) as error:
        print(f"ais: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    except ProcessFailedError as error:
        print(f"ais: {error}", file=sys.stderr)
        return EXIT_FAILED
