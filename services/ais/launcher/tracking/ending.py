"""The end of a run's trackers: each may take what it has not taken yet, for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.directory.steps import StepLog
from ais.launcher.processes.commands import Command
from ais.launcher.processes.processes import Processes
from ais.launcher.tracking.follower import told_to


async def end_trackers(
    processes: Processes,
    trackers: Sequence[Command],
    directory: RunDirectory,
    seconds: float,
    note: Callable[[str], object],
) -> None:
    """Returns when every tracker has ended. Those that run are asked to end, the others are started once more; what
    has not ended after `seconds` is killed, and what it lacks is noted."""
    ends = await asyncio.gather(*(_end(processes, tracker, seconds) for tracker in trackers))
    lacking = [tracker for tracker, well in zip(trackers, ends, strict=True) if not well]
    if not lacking:
        return
    files = (directory.steps, directory.held_out, directory.evaluations)
    entries = sum(StepLog(file).catch_up() for file in files)
    for tracker in lacking:
        told = len(told_to(directory, tracker.name))
        note(
            f"{tracker.name} has {told} of {entries} entries (see {processes.log_path(tracker.name)}); "
            f"`ais track {directory.path}` tells it the rest"
        )


async def _end(processes: Processes, tracker: Command, seconds: float) -> bool:
    """Whether the tracker has everything."""
    if tracker.name in processes.running:
        return (await processes.stop([tracker.name], seconds)).get(tracker.name) == 0
    try:
        async with asyncio.timeout(seconds):
            return await processes.run(replace(tracker, arguments=(*tracker.arguments, "--once"))) == 0
    except TimeoutError:
        return False
