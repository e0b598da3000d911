"""The prompts of a run together with what turns them into tokens and responses into rewards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ais.collector.judging.judge import Judge, Judged, open_judge
from ais.collector.judging.judgement import Observe, unobserved
from ais.collector.judging.service import ObserveCall, call_unobserved
from ais.collector.prompts.prompts import Prompt, Split, TaskError, TaskSource
from ais.collector.prompts.reserve import position_of
from ais.collector.prompts.room import PromptRoom, context_of
from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer
from ais.collector.rewards.response import Response
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

    def prompt(self, ordinal: int, redraw: int = 0) -> Prompt:
        """The prompt of an ordinal, `redraw` groups of it having been thrown away."""
        return self.task.prompt(position_of(ordinal, redraw))

    def ask(self, ordinal: int, redraw: int = 0) -> tuple[Prompt, list[int]]:
        """The prompt of an ordinal, and its tokens."""
        prompt = self.prompt(ordinal, redraw)
        return prompt, self.tokenizer.encode_prompt(prompt.question)

    async def judged(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> Judged:
        """Rewards and their components for the responses to `prompt`, in their order.

        Raises UnavailableError and UnjudgedError, see Judge.
        """
        return await self.judge.judge(prompt, [self._response(trajectory) for trajectory in trajectories])

    def _response(self, trajectory: Trajectory) -> Response:
        return Response(
            text=self._text(trajectory),
            finish_reason=trajectory.finish_reason,
            tokens=len(trajectory.token_ids),
            most_tokens=trajectory.sampling.max_new_tokens,
        )

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
    observe_call: ObserveCall = call_unobserved,
) -> AsyncIterator[Exercise]:
    """The prompts of `split` and what judges their responses, while the context is open.

    Raises UnavailableError when one cannot be used. Before training, the prompts of the evaluation are opened too, so
    that a bad row is found now and not afterwards.
    """
    splits = (Split.TRAIN, Split.HELD_OUT) if split is Split.TRAIN else (split,)
    (task, *held_out), tokenizer = open_prompts(settings, splits)
    judged_by = settings.collector
    if split is Split.HELD_OUT and judged_by.judging.on_failure == "again":  # an evaluation asks once
        judging = judged_by.judging.model_copy(update={"on_failure": "zero"})
        judged_by = judged_by.model_copy(update={"judging": judging})
    try:
        async with open_judge(judged_by, observe, observe_call, settings.run.use_proxy) as judge:
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
