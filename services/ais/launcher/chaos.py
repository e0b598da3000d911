"""Kills the processes of a run at random, and compares what the run came to with a calm one.

Policy: the step of each kill is drawn evenly from the first part of the run. The kill comes a random while after that
step, whatever is going on then (steps, commits, uploads, starts), but before the run is `LATEST_STEPS` further. The
victims are drawn from a bag that holds every process once, so that none is spared. A process that is just being started
again is taken later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

from ais.launcher.directory.history import problems_of
from ais.launcher.directory.steps import StepLog
from ais.launcher.display import Display
from ais.launcher.processes.kept import kept_below
from ais.launcher.processes.processes import Processes
from ais.launcher.report.results import Results

POLL_SECONDS = 0.02
LONGEST_WAIT_SECONDS = 3.0
LATEST_STEPS = 2
LAST_SHARE = 0.8
"""Kills come in this first share of the run; in the rest it has to end by itself."""


@dataclass(frozen=True)
class Kill:
    """One process that got SIGKILL."""

    name: str
    seconds: float
    """Since training began."""
    step: int
    """Steps recorded at the time."""


@dataclass
class Chaos:
    """Kills processes of a run while it trains."""

    wanted: int
    """Kills to come."""
    total_steps: int
    seed: int
    display: Display
    steps: StepLog
    done: list[Kill] = field(default_factory=list)

    async def run(self, processes: Processes) -> None:
        """Kills until there were enough kills. The caller cancels it when the run ends before that."""
        draw = random.Random(self.seed)
        await _until(lambda: self._reached(1))
        began = time.monotonic()
        bag: list[str] = []
        for due in sorted(draw.uniform(1, LAST_SHARE * self.total_steps) for _ in range(self.wanted)):
            await _until(lambda: self._reached(due))  # noqa: B023  # awaited in this turn
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(draw.uniform(0, LONGEST_WAIT_SECONDS)):
                    await _until(lambda: self._reached(due + LATEST_STEPS))  # noqa: B023
            await _until(lambda: self._kill(processes, bag, draw, began))

    def _kill(self, processes: Processes, bag: list[str], draw: random.Random, began: float) -> bool:
        """Whether there was one to kill."""
        kept = self._kept(processes)
        running = [*processes.running, *sorted(kept)]
        if not running:
            return False
        if not set(bag) & set(running):
            bag += draw.sample(running, len(running))
        victim = next(name for name in bag if name in running)
        if victim in kept:
            try:
                os.kill(draw.choice(kept[victim]), signal.SIGKILL)
            except ProcessLookupError:  # it has ended by itself
                return False
        else:
            processes.kill(victim)
        bag.remove(victim)
        self.done.append(Kill(victim, time.monotonic() - began, self.steps.count))
        said = f"kill {len(self.done)} of {self.wanted}: {victim}, after step {self.done[-1].step}"
        self.display.note(said)
        return True

    @staticmethod
    def _kept(processes: Processes) -> dict[str, list[int]]:
        """Workers and programs below the collector, and programs below agents."""
        keepers = [name for name in processes.running if name == "collector" or name.startswith("agent-")]
        found = dict[str, list[int]]()
        for pid in filter(None, map(processes.pid, keepers)):
            for kind, kept in kept_below(pid).items():
                found.setdefault(kind, []).extend(kept)
        return found

    def _reached(self, step: float) -> bool:
        return self.steps.catch_up() >= step


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # other processes change it, and they cannot set an event here
        await asyncio.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Verdict:
    """What a run under fire came to."""

    machine: str
    settings: dict[str, Any]
    """Section [run] of both runs, without names and paths."""
    kills: dict[str, int]
    """By process."""
    problems: list[str]
    """What is wrong; empty when the run held."""
    reward_calm: float
    """Mean training reward over the last steps of the calm run ..."""
    reward_spread: float
    """... its standard deviation over these steps ..."""
    reward_chaos: float
    """... and the mean of the run under fire."""
    held_out: dict[str, str]
    """Held-out reward of the final BF16 policy, by run, ± standard error."""
    trainers: int
    """How many trainers the run under fire had, one after another."""
    seconds_calm: float
    seconds_chaos: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(calm: Results, chaos: Results, kills: Sequence[Kill], wanted: int) -> Verdict:
    """Compares two finished runs of the same settings."""
    settings = chaos.settings["run"]
    problems = problems_of(chaos.directory.path, settings["steps"], settings["groups_per_batch"])
    if len(kills) < wanted:
        problems.append(f"the run ended after {len(kills)} of {wanted} kills: give it more steps")
    rewards = calm.column("reward_mean")[-calm.window :]
    expected, spread, got = fmean(rewards), stdev(rewards) if len(rewards) > 1 else 0.0, chaos.late("reward_mean")
    if abs(got - expected) > spread:
        problems.append(f"final training reward {got:.3f} is not within {expected:.3f} ± {spread:.3f} of the calm run")
    finals = {"calm": calm.trained, "chaos": chaos.trained}
    return Verdict(
        machine=chaos.record.machine if chaos.record else "",
        settings={key: value for key, value in settings.items() if key not in ("name", "directory", "model")},
        kills=dict(Counter(kill.name for kill in kills)),
        problems=problems,
        reward_calm=expected,
        reward_spread=spread,
        reward_chaos=got,
        held_out={name: str(scores[-1]) for name, scores in finals.items() if scores},
        trainers=int(chaos.steps[-1]["incarnation"]),
        seconds_calm=_seconds(calm),
        seconds_chaos=_seconds(chaos),
    )


def _seconds(results: Results) -> float:
    return (results.record.training_seconds or 0.0) if results.record else 0.0
