"""Makes all ranks do what rank 0 does: rank 0 tells the others of each call of the learner before it makes it.

The service calls a conductor as it would call the learner. The other ranks follow: they wait for a command, make the
same call of a learner of their own, and wait for the next one. In a process that stands alone, a conductor is only the
thread that the learner works in.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter

from ais.contracts.trajectory import ScoredGroup, TrajectoryBounds, decode_group, encode_group
from ais.trainer.learning import learner as learner_module
from ais.trainer.learning.learner import Learner, Memory, StepOutcome
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.learning.reference import load_reference
from ais.trainer.ranks.ranks import JoinedRanks, Ranks, join
from ais.trainer.ranks.sharding import load_policy
from ais.trainer.settings import Settings
from ais.trainer.weights.snapshot import Snapshot

Result = TypeVar("Result")


class Conductor:
    """The learners of all ranks, as one. Its methods block; one thread, always the same, does their work."""

    def __init__(self, learner: Learner, ranks: Ranks, threads: int) -> None:
        """`threads`: how many torch computes with on the CPU."""
        self._learner = learner
        self._ranks = ranks

        def begin() -> None:
            ranks.attach_thread()
            torch.set_num_threads(threads)

        self._thread = ThreadPoolExecutor(1, "learner", initializer=begin)

    @property
    def memory(self) -> Memory:
        """`Learner.memory`, which is the same on all ranks."""
        return self._learner.memory

    def save(self, directory: Path) -> Future[Any]:
        """`Learner.save` on all ranks, to a directory that all of them see."""

        def call() -> Future[Any]:
            self._ranks.tell("save", [str(directory).encode()])
            return self._learner.save(directory)

        return self._run(call)

    def resume(self, memory: Memory, directory: Path) -> None:
        """`Learner.resume` on all ranks."""

        def call() -> None:
            self._ranks.tell("resume", [json.dumps(asdict(memory)).encode(), str(directory).encode()])
            self._learner.resume(memory, directory)

        self._run(call)

    def step(self, groups: Sequence[ScoredGroup], clock: PhaseClock) -> StepOutcome:
        """`Learner.step` on all ranks."""

        def call() -> StepOutcome:
            with clock.phase("prepare"):
                self._ranks.tell("step", (encode_group(group) for group in groups))
            return self._learner.step(groups, clock)

        return self._run(call)

    def rehearse(self, group: ScoredGroup) -> None:
        """`Learner.rehearse` on all ranks, with one group."""

        def call() -> None:
            self._ranks.tell("rehearse", [encode_group(group)])
            self._learner.rehearse([group])

        self._run(call)

    def snapshot(self) -> Snapshot:
        """`Learner.snapshot` on all ranks."""

        def call() -> Snapshot:
            self._ranks.tell("snapshot")
            return self._learner.snapshot()

        return self._run(call)

    def end(self) -> None:
        """Lets the other ranks end. After an error of this one they need no word: they see the connections close."""

        def call() -> None:
            self._ranks.tell("end")
            self._ranks.leave()

        self._run(call)

    def _run(self, call: Callable[[], Result]) -> Result:
        return self._thread.submit(call).result()


async def follow(settings: Settings) -> None:
    """Runs any rank but the first: does what rank 0 says until rank 0 says that this is the end."""
    await asyncio.to_thread(_follow, settings)


def _follow(settings: Settings) -> None:
    torch.set_num_threads(settings.trainer.compute.threads)
    torch.manual_seed(settings.run.seed)
    logging.getLogger(learner_module.__name__).setLevel(logging.ERROR)  # rank 0 logs what all decide alike
    ranks = join(settings.trainer)
    assert isinstance(ranks, JoinedRanks)
    run = settings.run
    policy = load_policy(run.model, settings.trainer, ranks, run.seed, routing_replay=run.routing_replay)
    reference = load_reference(settings.run, settings.trainer, policy, ranks)
    learner = Learner(policy, settings.run, settings.trainer, settings.correction, ranks=ranks, reference=reference)
    bounds = TrajectoryBounds(policy.vocab_size)
    saving: Future[Any] = Future()
    saving.set_result(None)
    while True:
        command, payloads = ranks.hear()
        match command:
            case "step":
                learner.step([decode_group(payload, bounds) for payload in payloads], PhaseClock())
            case "rehearse":
                learner.rehearse([decode_group(payload, bounds) for payload in payloads])
            case "snapshot":
                learner.snapshot()
            case "save":
                saving.result()
                saving = learner.save(Path(payloads[0].decode()))
            case "resume":
                memory = TypeAdapter(Memory).validate_json(payloads[0])
                learner.resume(memory, Path(payloads[1].decode()))
            case "end":
                saving.result()
                ranks.leave()
                return
            case unknown:
                raise AssertionError(f"rank 0 gave a command that rank {ranks.rank} does not know: {unknown!r}")
