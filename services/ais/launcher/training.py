"""The training part of a run: starts the services, keeps them alive and shows progress until the trainer has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ais.launcher.course import Course
from ais.launcher.directory.scaling import asked
from ais.launcher.directory.steps import StepLog
from ais.launcher.display import Display, Snapshot, score_line
from ais.launcher.fleet import Fleet
from ais.launcher.listening import Listener
from ais.launcher.processes.commands import Command, ServiceCommands
from ais.launcher.processes.processes import Exit, Processes, failure
from ais.launcher.processes.supervision import Fail, Finish, GiveUp, Restart, Role, Supervision
from ais.runtime.tasks import end_tasks, until_first_end

REFRESH_SECONDS = 0.5
"""How often the display looks at the run."""


async def train(
    processes: Processes,
    services: ServiceCommands,
    server: Command | None,
    *,
    trackers: Sequence[Command] = (),
    fleet: Fleet,
    steps_file: Path,
    held_out: StepLog,
    scale_file: Path,
    course: Course,
    total_steps: int,
    deaths_limit: int,
    display: Display,
) -> None:
    """Runs the services until the trainer ends well, and ends them then, or when cancelled; `trackers` go on.

    `server` is our own Valkey server, running already. `scale_file`, once it is there, says how many replicas there are
    to be (scaling.py). `course` takes in the steps. Raises ProcessFailedError.
    """
    keeper = _Keeper(processes, services, server, trackers, deaths_limit, display)
    listener = Listener(processes.log_path, display)
    watch = _Watch(
        fleet, keeper.processes, keeper.replicas, listener, StepLog(steps_file), course, total_steps, display, held_out
    )
    held_out.catch_up()  # those before were told by another launcher
    background = [asyncio.create_task(watch.look_forever())]
    try:
        for command in (*services.replicas, services.collector, services.trainer, *services.agents, *trackers):
            await keeper.start(command)
        background.append(asyncio.create_task(keeper.follow_scale(scale_file)))
        await until_first_end(keeper.until_the_end(), *background)
        await watch.look()
    except asyncio.CancelledError:
        display.note("stopping the services")
        raise
    finally:
        await end_tasks(*background)
        ours = (*keeper.replicas, services.collector, services.trainer, *services.agents)
        await processes.stop([command.name for command in ours])


class _Keeper:
    """Carries out what supervision decides."""

    def __init__(
        self,
        processes: Processes,
        services: ServiceCommands,
        server: Command | None,
        trackers: Sequence[Command],
        deaths_limit: int,
        display: Display,
    ) -> None:
        roles = [(command, Role.REPLICA) for command in services.replicas]
        roles += [(services.collector, Role.COLLECTOR), (services.trainer, Role.TRAINER)]
        roles += [(agent, Role.AGENT) for agent in services.agents]
        roles += [(server, Role.SERVER)] if server else []
        roles += [(tracker, Role.TRACKER) for tracker in trackers]
        self.replicas = list(services.replicas)
        self._commands = {command.name: command for command, _role in roles}
        self._supervision = Supervision({command.name: role for command, role in roles}, deaths_limit)
        self._processes = processes
        self._display = display
        self._restarts: dict[float, Exit] = {}
        """When processes are to be started again (the event loop's time), and the exits that made that necessary."""
        if server:
            self._supervision.started(server.name, _now())

    def processes(self) -> list[str]:
        """Names of the processes that are kept alive."""
        return list(self._commands)

    async def start(self, command: Command) -> None:
        await self._processes.start(command)
        self._supervision.started(command.name, _now())

    async def follow_scale(self, file: Path) -> None:
        """Starts and ends replicas as the file asks for, until cancelled."""
        while True:
            if (wanted := asked(file)) is not None and wanted != len(self.replicas):
                self._display.note(f"from {len(self.replicas)} replicas to {wanted}")
                await self._scale(wanted)
            await asyncio.sleep(REFRESH_SECONDS)

    async def _scale(self, wanted: int) -> None:
        """Starts replicas, which all have the same command line, or ends those that were started last."""
        while len(self.replicas) < wanted:
            command = replace(self.replicas[0], name=f"rollout-{len(self.replicas)}")
            self.replicas.append(command)
            self._commands[command.name] = command
            self._supervision.add(command.name, Role.REPLICA)
            await self.start(command)
        leavers = [command.name for command in self.replicas[wanted:]]
        del self.replicas[wanted:]
        for name in leavers:
            del self._commands[name]
            self._supervision.remove(name)
        await self._processes.stop(leavers)

    async def until_the_end(self) -> None:
        """Returns when the trainer has ended well. Raises ProcessFailedError when the run cannot go on."""
        while True:
            try:
                async with asyncio.timeout_at(min(self._restarts, default=None)):
                    ended = await self._processes.exits.get()
            except TimeoutError:
                await self._restart(self._restarts.pop(min(self._restarts)))
            else:
                if self._has_finished(ended):
                    return

    def _has_finished(self, ended: Exit) -> bool:
        if ended.name not in self._commands:  # a replica that was scaled away, and had ended by itself before
            return False
        log = self._processes.log_path(ended.name)
        match self._supervision.ended(ended.name, ended.code, _now()):
            case Finish():
                return True
            case Fail(reason):
                raise failure(ended, reason, log, self._processes.log_tail(ended.name))
            case GiveUp(reason):
                self._display.note(f"{ended}; {reason} (see {log})")
            case Restart(after_seconds):
                self._restarts[_now() + after_seconds] = ended
        return False

    async def _restart(self, ended: Exit) -> None:
        if ended.name in self._commands:  # else it was scaled away meanwhile
            self._display.note(f"{ended}; starting it again")
            await self.start(self._commands[ended.name])


@dataclass
class _Watch:
    """Shows the run on the display."""

    fleet: Fleet
    processes: Callable[[], Iterable[str]]
    """Gives the names of the processes whose logs to follow."""
    replicas: Sequence[Command]
    """The replicas that the run is to have; the list changes as the run is scaled."""
    listener: Listener
    steps: StepLog
    course: Course
    total_steps: int
    display: Display
    held_out: StepLog
    """Evaluations while training."""
    began: float | None = None
    """When the first replica was ready, by the event loop's time."""

    async def look_forever(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(REFRESH_SECONDS)

    async def look(self) -> None:
        self.course.follow(self.steps)
        for score in self.held_out.new_records():
            self.display.note(score_line(score))
        self.listener.listen(self.processes(), _now())
        ready = len(await self.fleet.ready())
        if self.began is None and ready:
            self.began = _now()
        self.display.update(
            Snapshot(
                phase=_phase(self.course.steps, self.total_steps, ready, len(self.replicas)),
                total_steps=self.total_steps,
                course=self.course,
                replicas_ready=ready,
                replicas_wanted=len(self.replicas),
                training_seconds=_now() - self.began if self.began is not None else 0.0,
            )
        )


def _phase(steps: int, total_steps: int, ready: int, replicas: int) -> str:
    if steps >= total_steps:
        return "saving the model"
    if steps:
        return "training"
    if ready < replicas:
        return f"loading: {ready} of {replicas} replicas ready"
    return "waiting for the first batch"


def _now() -> float:
    return asyncio.get_running_loop().time()
