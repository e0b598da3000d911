"""What `ais run` and `ais resume` do once the command line is read; each gives an exit code."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from ais.checks import check_before_start
from ais.launcher.directory.lock import held
from ais.launcher.directory.record import RunRecord, read_record
from ais.launcher.directory.run_directory import RunDirectory, early_end, fresh_run_directory
from ais.launcher.directory.steps import StepLog
from ais.launcher.display import Display, open_display
from ais.launcher.processes.commands import (
    LOOPBACK,
    Command,
    TrainerRanks,
    agent_commands,
    service_commands,
    tracker,
)
from ais.launcher.processes.processes import Processes, ProcessFailedError
from ais.launcher.processes.signals import run_cancellable
from ais.launcher.report import write_report
from ais.launcher.report.results import read_results
from ais.launcher.report.summary import print_summary
from ais.launcher.run import Plan, run
from ais.launcher.tracking.run import write_tracked_run
from ais.resuming import check_resumable
from ais.runtime.exits import EXIT_FAILED, EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.files import replace_file
from ais.runtime.network.redis import RedisUnreachableError
from ais.runtime.output import Screen
from ais.runtime.process import UnavailableError
from ais.runtime.reading import read_settings
from ais.runtime.security.keyring import tokens_of
from ais.runtime.settings import RunSettings, SettingsError
from ais.settings import Settings, save
from ais.warming import make_missing_model
from ais_core.settings import MIXING

Beside = Callable[[Display], Callable[[Processes], Coroutine[Any, Any, None]]]
"""What goes on beside training, given the run's display."""

FAILURES = (SettingsError, UnavailableError, RedisUnreachableError, ProcessFailedError)
"""What ends a command with a message, and not with a traceback."""


def begin(
    settings: Settings, beside: Callable[[RunDirectory], Beside] | None = None
) -> tuple[RunDirectory | None, int]:
    """Trains in a new run directory, evaluates, writes the report and prints the summary.

    Gives the directory, and the exit code. None: the run was refused before there was one.
    """
    try:
        if code := make_missing_model(settings):
            return None, code
        data = check_before_start(settings)
        directory = fresh_run_directory(settings.run.directory, settings.run.name)
    except FAILURES as error:
        return None, tell(error)
    if directory.name != settings.run.name:
        print(f"{settings.run.path} is an earlier run's; this one is {directory.path}")

    def own_settings() -> Settings:
        own = settings.model_copy(update={"run": settings.run.model_copy(update={"name": directory.name})})
        write_inputs(own, data, directory)
        return own

    return directory, drive(directory, own_settings, beside(directory) if beside else None)


def go_on(directory: RunDirectory, overrides: list[str]) -> int:
    """Goes on with a run, with its own settings and those of `overrides`. A refusal changes nothing."""
    return drive(directory, partial(_resumed_settings, directory, overrides))


def write_settings(settings: Settings, directory: RunDirectory) -> None:
    """Writes a run's settings file, for its owner alone: it may hold the password of a Redis."""
    try:
        save(settings, directory.config)
    except OSError as error:
        raise UnavailableError(f"the run directory cannot be used: {directory.config}: {error.strerror}") from error


def checked_again(settings: Settings, directory: RunDirectory) -> str:
    """`check_before_start` of a run that may have begun: it takes no other data than it began with."""
    began = directory.data.read_text(encoding="utf-8") if directory.data.exists() else None
    return check_before_start(settings, began)


def write_inputs(settings: Settings, data: str, directory: RunDirectory) -> None:
    """Writes what a run is made of: its settings, and which data files there are."""
    write_settings(settings, directory)
    replace_file(directory.data, data)


def tell(error: Exception) -> int:
    """Says what went wrong, and gives the exit code for it."""
    print(f"ais: {error}", file=sys.stderr)
    match error:
        case SettingsError():
            return EXIT_SETTINGS
        case UnavailableError() | RedisUnreachableError():
            return EXIT_UNAVAILABLE
        case ProcessFailedError(exit_code=code):
            return code
    return EXIT_FAILED


def drive(directory: RunDirectory, settings_of: Callable[[], Settings], beside: Beside | None = None) -> int:
    """Drives a run to its end. `settings_of` is called when the run is ours."""
    console = Screen()
    started: list[Settings] = []

    async def main() -> int:
        async with held(directory, partial(print, file=sys.stderr)) as lock:
            settings = settings_of()
            if _is_finished(directory, settings):
                _say_finished(directory, settings)
                return 0
            display = open_display(console, _title(directory, settings))
            display.note(f"watch it in a browser:  ais console {_as_argument(directory)}")
            started.append(settings)
            write_tracked_run(directory, settings.model_dump(mode="json"))
            record = await run(_plan(directory, settings, lock), display, beside(display) if beside else None)
        return _conclude(directory, record, console)

    try:
        code = run_cancellable(main())
    except FAILURES as error:
        code = tell(error)
    if started and code and not _is_finished(directory, started[0]):
        _say_how_to_go_on(directory, started[0].run.steps)
    return code


def _resumed_settings(directory: RunDirectory, overrides: list[str]) -> Settings:
    """The settings a run goes on with, written into its directory. Raises SettingsError or UnavailableError."""
    try:
        before = read_settings(Settings, directory.config, environment={}, earlier_release=True)
    except SettingsError as error:
        raise SettingsError(
            f"the run's own settings, {directory.config}, cannot be used:\n{error}\nIf another release wrote them, "
            "change these lines, or finish the run with that release."
        ) from None
    after = read_settings(Settings, directory.config, overrides, earlier_release=True)
    place = {"name": directory.name, "directory": directory.path.parent}
    before, after = (one.model_copy(update={"run": one.run.model_copy(update=place)}) for one in (before, after))
    check_resumable(before, after)
    write_inputs(after, checked_again(after, directory), directory)
    return after


def agents_of(config: Path, settings: Settings) -> tuple[Command, ...]:
    """The agents that a run on this machine starts itself."""
    url = "" if settings.agent.url else f"http://{LOOPBACK}:{settings.collector.agents_port}"
    return agent_commands(config, settings.launcher.agents, url)


def _plan(directory: RunDirectory, settings: Settings, lock: int) -> Plan:
    agents = agents_of(directory.config, settings)
    return Plan(
        directory=directory,
        total_steps=settings.run.steps,
        quantised=settings.rollout.precision.weights != "bf16",
        float32_head=settings.trainer.float32_head,
        redis=settings.redis,
        launcher=settings.launcher,
        services=partial(
            service_commands,
            directory.config,
            replicas=settings.rollout.replicas,
            trainer=TrainerRanks(settings.trainer.ranks.count, settings.trainer.ranks.max_restarts),
            agents=agents,
        ),
        agents=agents,
        tokens=tokens_of(settings.security, directory.path),
        lock=lock,
        trackers=tuple(tracker(directory.path, name) for name in settings.tracking.trackers),
        tracking_seconds=settings.tracking.final_seconds,
        trained=is_trained(directory, settings),
        hidden=() if settings.correction.method in MIXING else ("alpha",),  # the others do not mix
    )


def _title(directory: RunDirectory, settings: Settings) -> str:
    return f"{directory.path}: rollouts {settings.rollout.precision}, correction {settings.correction.method}"


def _conclude(directory: RunDirectory, record: RunRecord, console: Screen) -> int:
    """Report and summary of a run that has come to its end."""
    code = 0
    try:
        write_report(directory)
    except OSError as error:
        print(f"ais: the report cannot be written: {directory.report}: {error.strerror}", file=sys.stderr)
        code = EXIT_FAILED
    print_summary(console, read_results(directory))
    if record.reason:
        print(f"ais: {record.reason}", file=sys.stderr)
        print(f"evaluate again:  ais resume {_as_argument(directory)}", file=sys.stderr)
        code = EXIT_FAILED
    return code


def is_trained(directory: RunDirectory, settings: Settings) -> bool:
    """Whether the final model of the run is there, after as many steps as are wanted or make sense."""
    try:
        manifest = json.loads((directory.model / "manifest.json").read_bytes())
        in_vain = settings.evaluation.patience > 0 and early_end(directory) is not None
        return int(manifest["step"]) >= settings.run.steps or in_vain
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_finished(directory: RunDirectory, settings: Settings) -> bool:
    record = read_record(directory.record)
    return record is not None and record.status == "finished" and not record.reason and is_trained(directory, settings)


def _say_finished(directory: RunDirectory, settings: Settings) -> None:
    argument = _as_argument(directory)
    step, why = early_end(directory) or (settings.run.steps, "")
    print(f"{directory.path} is finished: {step} of {settings.run.steps} steps are trained.{why and f' {why}'}")
    print(f"its report:      {directory.report}")
    print(f"train on:        ais resume {argument} --set run.steps={2 * settings.run.steps}")


def _say_how_to_go_on(directory: RunDirectory, total_steps: int) -> None:
    """Each command on a line of its own, which the terminal does not break."""
    steps, argument = StepLog(directory.steps).catch_up(), _as_argument(directory)
    lines = [f"{steps} of {total_steps} steps are trained; everything is in {directory.path}"]
    lines += [f"go on:       ais resume {argument}"]
    lines += [f"look at it:  ais report {argument}"] if steps else [f"its logs:    {directory.logs}"]
    print("\n".join(lines), file=sys.stderr)


def _as_argument(directory: RunDirectory) -> str:
    """The run as a command line names it from here."""
    known = directory.path.parent == RunSettings().directory
    return shlex.quote(directory.name if known else str(directory.path))
