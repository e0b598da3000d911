"""Evaluation beside training, through the replicas that training uses.

It has a bounded share of every replica's slots, and takes nothing else from training: no version waits for it, and what
it samples is no training data. Replicas take new weights meanwhile, so a result names all the versions that sampled it.
Nothing that goes wrong here ends the collector.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from ais.collector.evaluating.questions import Asking, Question, Sample, questions_of, scores_of
from ais.collector.evaluating.schedule import due
from ais.collector.exercise import Exercise
from ais.collector.judging.judge import UnjudgedError
from ais.collector.metrics import CollectorMetrics
from ais.collector.replicas.fleet import Fleet
from ais.collector.replicas.generation import GenerationError
from ais.collector.settings import CollectorSettings
from ais.contracts.evaluation.board import EvaluationBoard
from ais.contracts.evaluation.results import EvaluationResult
from ais.contracts.evaluation.settings import EvaluationSettings
from ais.contracts.events import Finished, Position, Resumed, TrainerEvents
from ais.contracts.registry import ReplicaRecord
from ais.contracts.trajectory import MalformedRecordError, Trajectory
from ais.runtime.network.patience import persist
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RunSettings
from ais.runtime.tasks import end_tasks

ATTEMPTS = 5
"""Calls for one prompt that may come to nothing; then it stays unanswered."""
LOOK_SECONDS = 0.25
"""How often is looked for room on a replica while none has any."""
EVENT_SECONDS = 1.0
"""How long one read waits for the trainer's next event."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the policy of a run, whenever that is due."""

    run: RunSettings
    collector: CollectorSettings
    settings: EvaluationSettings
    exercise: Exercise
    """The held-out prompts."""
    events: TrainerEvents
    """A follower of its own."""
    board: EvaluationBoard
    fleet: Fleet
    verify: Callable[[tuple[Trajectory, ...]], Awaitable[None]]
    metrics: CollectorMetrics

    async def follow(self) -> None:
        """Follows the trainer until it has finished or this is cancelled."""
        evaluation: asyncio.Task[None] | None = None
        begun: int | None = None
        try:
            while True:
                events = await persist(partial(self.events.follow, EVENT_SECONDS), None)
                if any(isinstance(event, Finished) for event in events):
                    position = await persist(self.events.position, None)
                    if position is not None and position.finished:
                        return
                if evaluation and any(isinstance(event, Resumed) for event in events):
                    await end_tasks(evaluation)  # its policy may be trained again
                    evaluation, begun = None, None
                if evaluation is None or evaluation.done():
                    position = await persist(self.events.position, None)
                    step = await self._due(position)
                    if position is not None and step is not None and step != begun:
                        begun = step
                        evaluation = asyncio.create_task(self._evaluate(step, position), name=f"evaluation of {step}")
        finally:
            if evaluation is not None:
                await end_tasks(evaluation)

    async def _due(self, position: Position | None) -> int | None:
        if position is None:
            return None
        return due(self.settings.every_steps, position.version, self.run.steps, await self.board.results())

    async def _evaluate(self, step: int, position: Position) -> None:
        """Whatever is wrong is logged: the evaluation after this one may be better."""
        try:
            result = await _Round(self, step).result()
            if result is not None and await self.board.publish(result, position.incarnation):
                self.metrics.evaluated(result)
                logger.info("evaluated", extra={"step": step, "seconds": round(result.seconds, 1)})
        except Exception:
            logger.exception("the evaluation of step %d has failed", step)


@dataclass
class _Round:
    """One evaluation."""

    evaluator: Evaluator
    step: int
    outstanding: Counter[str] = field(default_factory=Counter)
    """Sequences that a replica owes, by replica."""
    failures: Counter[str] = field(default_factory=Counter)
    """Calls that came to nothing, by question."""
    samples: list[Sample] = field(default_factory=list)

    async def result(self) -> EvaluationResult | None:
        """None: no prompt was answered."""
        began, settings = time.monotonic(), self.evaluator.settings
        questions = questions_of(self.evaluator.exercise.task, settings.prompts)
        await self._ask_all(deque(questions))
        scores = scores_of(questions, self.samples, settings.pass_reward)
        if not scores:
            logger.warning("the evaluation of step %d came to nothing: no prompt was answered", self.step)
            return None
        trajectories = [trajectory for sample in self.samples for trajectory in sample.trajectories]
        versions = [span.version for trajectory in trajectories for span in trajectory.spans]
        return EvaluationResult(
            step=self.step,
            first_version=min(versions),
            last_version=max(versions),
            precision=str(trajectories[0].precision),
            time=time.time(),
            seconds=time.monotonic() - began,
            sources=scores,
        )

    async def _ask_all(self, waiting: deque[Question]) -> None:
        running: set[asyncio.Task[Question | None]] = set()
        try:
            while waiting or running:
                while waiting and (replica := self._with_room()):
                    self.outstanding[replica.replica_id] += self.evaluator.settings.samples
                    self.evaluator.fleet.dispatcher.sent(replica.replica_id, self.evaluator.settings.samples)
                    running.add(asyncio.create_task(self._ask(waiting.popleft(), replica)))
                if not running:
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                done, running = await asyncio.wait(running, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                waiting.extend(again for task in done if (again := task.result()) is not None)
        finally:
            await end_tasks(*running)

    def _with_room(self) -> ReplicaRecord | None:
        """The replica that has the least of this evaluation, of those that may have more."""
        settings = self.evaluator.settings
        able = [
            replica
            for replica in self.evaluator.fleet.serving(self.step)
            if self.outstanding[replica.replica_id] == 0
            or self.outstanding[replica.replica_id] + settings.samples <= settings.slot_share * replica.slots
        ]
        return min(able, key=lambda replica: self.outstanding[replica.replica_id], default=None)

    async def _ask(self, question: Question, replica: ReplicaRecord) -> Question | None:
        """Asks a replica that owes the responses from now on. Gives the question back if it is to be asked again."""
        evaluator, name = self.evaluator, replica.replica_id
        settings, dispatcher = evaluator.settings, evaluator.fleet.dispatcher
        asking = Asking(
            exercise=evaluator.exercise,
            name=f"{evaluator.run.name}-evaluation-{self.step}-{self.failures[question.name]}",
            samples=settings.samples,
            sampling=evaluator.collector.sampling,
            temperature=settings.temperature,
            seed=evaluator.run.seed,
            deadline_seconds=evaluator.collector.group_deadline_seconds,
        )
        owed = settings.samples

        def arrived() -> None:
            nonlocal owed
            owed -= 1
            self.outstanding[name] -= 1
            dispatcher.settled(name)

        client = evaluator.fleet.client(replica)
        try:
            sample = await asking.ask(question, client, replica.vocab_size, evaluator.verify, arrived)
        except (GenerationError, MalformedRecordError, UnavailableError, UnjudgedError) as error:
            self.failures[question.name] += 1
            again = self.failures[question.name] < ATTEMPTS
            level = logging.INFO if again else logging.WARNING
            logger.log(level, "a held-out prompt is not answered: %s", error, extra={"replica": name})
            return question if again else None
        finally:
            self.outstanding[name] -= owed
            dispatcher.settled(name, owed)
        evaluator.metrics.evaluation_responses.inc(len(sample.trajectories))
        self.samples.append(sample)
        return None
