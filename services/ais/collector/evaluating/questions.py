"""The held-out prompts of an evaluation, and one of them asked and judged."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ais.collector.episodes.answering import answers
from ais.collector.episodes.call import Call, Verify
from ais.collector.evaluating.statistics import Answered, score_of
from ais.collector.exercise import Exercise
from ais.collector.prompts.prompts import Prompt, TaskSource
from ais.collector.replicas.generation import GenerationClient
from ais.contracts.evaluation.results import SourceScore
from ais.contracts.reward_components import RewardComponent
from ais.contracts.sampling import FinishReason, SamplingParameters
from ais.contracts.trajectory import Trajectory


@dataclass(frozen=True)
class Question:
    """One held-out prompt."""

    source: TaskSource
    ordinal: int
    """In its source."""

    @property
    def name(self) -> str:
        """Short, and another question's in no case."""
        return f"{self.source.name}-{self.ordinal}"


@dataclass(frozen=True)
class Sample:
    """The responses to one question, judged."""

    question: Question
    prompt: Prompt
    trajectories: tuple[Trajectory, ...]
    rewards: tuple[float, ...]
    components: tuple[RewardComponent, ...]

    @property
    def answered(self) -> Answered:
        return Answered(
            rewards=self.rewards,
            lengths=tuple(len(one.token_ids) for one in self.trajectories),
            truncated=sum(one.finish_reason is FinishReason.LENGTH for one in self.trajectories),
            components={one.name: one.scores for one in self.components},
        )


def questions_of(task: TaskSource, prompts: int) -> list[Question]:
    """The first `prompts` of each source, or all that it has."""
    return [
        Question(source, ordinal)
        for source in task.sources
        for ordinal in range(min(prompts, source.distinct or prompts))
    ]


def sampling_of(
    sampling: SamplingParameters, temperature: float | None, seed: int, question: Question
) -> SamplingParameters:
    """How a question is answered. The same seed whichever policy answers: differences between policies are theirs."""
    drawn = random.Random(f"{seed}:evaluation:{question.source.name}:{question.ordinal}").getrandbits(63)
    wanted = sampling.temperature if temperature is None else temperature
    return sampling.model_copy(update={"seed": drawn, "temperature": wanted})


@dataclass(frozen=True)
class Asking:
    """How every question of an evaluation is asked."""

    exercise: Exercise
    name: str
    """Begins the names of the calls."""
    samples: int
    sampling: SamplingParameters
    temperature: float | None
    seed: int
    deadline_seconds: float

    async def ask(
        self,
        question: Question,
        client: GenerationClient,
        vocab_size: int,
        verify: Verify | None = None,
        on_arrival: Callable[[], object] = lambda: None,
    ) -> Sample:
        """Raises GenerationError, also where `verify` raises MalformedRecordError for responses that must not count;
        and what the judge raises for a response that cannot be judged."""
        prompt = question.source.prompt(question.ordinal)
        call = Call(
            name=f"{self.name}-{question.name}",
            samples=self.samples,
            sampling=sampling_of(self.sampling, self.temperature, self.seed, question),
            vocab_size=vocab_size,
            deadline_seconds=self.deadline_seconds,
        )
        found = await answers(self.exercise, prompt, client, call, verify, on_arrival)
        return Sample(question, prompt, found.trajectories, found.judged.rewards, found.judged.components)


def scores_of(questions: Sequence[Question], samples: Sequence[Sample], pass_reward: float) -> tuple[SourceScore, ...]:
    """Scores by source, in the order of the questions; a source without any answer has none."""
    wanted: dict[str, int] = {}
    for question in questions:
        wanted[question.source.name] = wanted.get(question.source.name, 0) + 1
    scores = []
    for source, number in wanted.items():
        answered = [sample.answered for sample in samples if sample.question.source.name == source]
        if answered:
            scores.append(score_of(source, answered, number - len(answered), pass_reward))
    return tuple(scores)
