"""What `ais chaos`, `eval`, `chat` and `track` do once the command line is read; each gives an exit code."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from ais.checks import check_before_start, check_model, check_trackers
from ais.contracts.evaluation.results import SourceScore
from ais.launcher.chaos import Chaos, Verdict, judge
from ais.launcher.chat import chat
from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.directory.steps import StepLog, read_records
from ais.launcher.display import Display
from ais.launcher.processes.commands import tracker
from ais.launcher.processes.processes import Processes
from ais.launcher.processes.signals import run_cancellable
from ais.launcher.report.results import read_results
from ais.launcher.run import processes_of, score_model
from ais.launcher.tracking.run import write_tracked_run
from ais.running import FAILURES, Beside, agents_of, begin, tell, write_settings
from ais.runtime.exits import EXIT_FAILED, EXIT_UNAVAILABLE
from ais.runtime.files import replace_file
from ais.runtime.output import Screen
from ais.runtime.reading import read_settings
from ais.runtime.security.keyring import tokens_of
from ais.runtime.settings import SettingsError
from ais.settings import Settings


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
        directory, code = begin(settings.model_copy(update=update), fire if name == "chaos" else None)
        if code or directory is None:
            return code
        directories.append(directory)
    calm, chaos = map(read_results, directories)
    verdict = judge(calm, chaos, made[0].done, kills)
    _print_verdict(verdict)
    if output is not None:
        try:
            replace_file(output, json.dumps(verdict.as_json(), indent=1) + "\n")
        except OSError as error:
            print(f"ais: the verdict cannot be written: {output}: {error.strerror}", file=sys.stderr)
            return EXIT_UNAVAILABLE
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
    Screen().print(table)


def evaluate_settings(settings: Settings, prompts: int, records: Path | None = None) -> int:
    """Scores the model of the settings on held-out prompts and prints what came of it."""
    temperature = settings.evaluation.temperature or settings.collector.sampling.temperature

    async def main() -> int:
        results = await score_model(
            directory,
            settings.redis,
            settings.launcher,
            tokens_of(settings.security, directory.path),
            prompts,
            records,
            agents_of(directory.config, settings),
        )
        for precision, scores in results.evaluations.items():
            used = scores[0].prompts
            print(f"reward {scores[0]}  ({precision}, {used} held-out prompts, temperature {temperature:g})")
        for line in read_records(directory.evaluations):
            sources = [SourceScore.model_validate(source) for source in line["sources"]]
            for source in sources:
                if settings.evaluation.samples > 1 or len(sources) > 1 or len(source.components) > 1:
                    print(_source_line(source))
        return 0

    with TemporaryDirectory(prefix="ais-eval-") as parent:
        directory = RunDirectory(Path(parent) / settings.run.name)
        directory.path.mkdir()
        try:
            check_before_start(settings)
            write_settings(settings, directory)
            return run_cancellable(main())
        except FAILURES as error:
            return tell(error)


def _source_line(score: SourceScore) -> str:
    """Reward, pass@k and the components of the reward, where it has several."""
    figures = {"reward": score.reward} | {f"pass@{k}": estimate for k, estimate in score.passed.items()}
    figures |= score.components if len(score.components) > 1 else {}
    said = "  ".join(f"{name} {estimate}" for name, estimate in figures.items())
    return f"{score.source}: {said}  (95% intervals)"


def chat_with(settings: Settings) -> int:
    """Talks to the model of the settings in the terminal."""
    with TemporaryDirectory(prefix="ais-chat-") as parent:
        directory = RunDirectory(Path(parent) / settings.run.name)
        directory.path.mkdir()
        try:
            check_model(settings)
            write_settings(settings, directory)
            print("loading the model", file=sys.stderr)
            tokens = tokens_of(settings.security, directory.path)
            return run_cancellable(chat(directory, settings.redis, settings.launcher, tokens))
        except FAILURES as error:
            return tell(error)


def track_run(directory: RunDirectory, overrides: list[str], follow: bool) -> int:
    """Tells each tracker what is in the run's files; with `follow`, until a signal comes."""

    async def main() -> int:
        async with processes_of(directory, settings.launcher) as processes:
            codes = await asyncio.gather(*map(processes.run, commands))
        for command, code in zip(commands, codes, strict=True):
            log = processes.log_path(command.name)
            print(f"{command.name} has everything" if code == 0 else f"{command.name} failed; see {log}")
        return max(codes)

    try:
        settings = read_settings(Settings, directory.config, overrides, environment={}, earlier_release=True)
        if not settings.tracking.trackers:
            raise SettingsError("""tracking.trackers names none; try --set 'tracking.trackers=["tensorboard"]'""")
        check_trackers(settings)
        write_tracked_run(directory, settings.model_dump(mode="json"))
        options = () if follow else ("--once",)
        commands = [tracker(directory.path, name, *options) for name in settings.tracking.trackers]
        return run_cancellable(main())
    except FAILURES as error:
        return tell(error)
