"""The prompts of a run together with what turns them into tokens and responses into rewards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ais.collector.judging.judge import Judge, open_judge
from ais.collector.judging.pool import Observe, unobserved
from ais.collector.prompts.prompts import Prompt, Split, TaskError, TaskSource
from ais.collector.prompts.room import PromptRoom, context_of
from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer
from ais.collector.settings import CollectorProcessSettings
from ais.collector.tasks.task import open_splits
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import Trajectory
from ais.runtime.process import UnavailableError


@dataclass(frozen=True)
class Exercise:
    """One task for one policy. Training and evaluation both ask and judge through it."""

    task: TaskSource
    tokenizer: PolicyTokenizer
    judge: Judge
    held_out: TaskSource | None = None
    """Where the task is training's: the prompts to evaluate on."""

    def ask(self, ordinal: int) -> tuple[Prompt, list[int]]:
        """The prompt of an ordinal, and its tokens."""
        prompt = self.task.prompt(ordinal)
        return prompt, self.tokenizer.encode_prompt(prompt.question)

    async def rewards(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> tuple[float, ...]:
        """A reward for each response to `prompt`, in their order. Raises UnavailableError, see Judge."""
        responses = [(self._text(trajectory), trajectory.finish_reason) for trajectory in trajectories]
        return await self.judge.rewards(prompt, responses)

    def _text(self, trajectory: Trajectory) -> str:
        token_ids = trajectory.token_ids
        if trajectory.finish_reason is FinishReason.STOP:
            token_ids = token_ids[:-1]  # the stop token, which not every tokenizer calls special
        return self.tokenizer.decode_response(token_ids.tolist())


@asynccontextmanager
async def open_exercise(
    settings: CollectorProcessSettings,
    split: Split,
    observe: Observe = unobserved,
) -> AsyncIterator[Exercise]:
    """The prompts of `split` and what judges their responses, while the context is open.

    Raises UnavailableError when one cannot be used. Before training, the prompts of the evaluation are opened too, so
    that a bad row is found now and not afterwards.
    """
    splits = (Split.TRAIN, Split.HELD_OUT) if split is Split.TRAIN else (split,)
    (task, *held_out), tokenizer = open_prompts(settings, splits)
    try:
        async with open_judge(settings.collector, observe) as judge:
            yield Exercise(task, tokenizer, judge, *held_out)
    except TaskError as error:
        raise UnavailableError(str(error)) from error


def open_prompts(
    settings: CollectorProcessSettings, splits: tuple[Split, ...]
) -> tuple[tuple[TaskSource, ...], PolicyTokenizer]:
    """The prompts of several splits, for which each row is read once. Raises UnavailableError."""
    run, task = settings.run, settings.collector.task
    tokenizer = open_tokenizer(run.model, settings.collector.prompt)
    room = PromptRoom(tokenizer, context_of(run.model, settings.rollout.max_model_len))
    try:
        return open_splits(task, run.seed, splits, room.fits), tokenizer
    except TaskError as error:
        raise UnavailableError(str(error)) from error
