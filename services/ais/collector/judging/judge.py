"""Who turns responses into rewards: this process, where that is quick for certain, or workers that can be stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from ais.collector.judging.pool import JudgePool, Observe, unobserved
from ais.collector.prompts.prompts import Prompt
from ais.collector.settings import CollectorSettings, TaskSettings
from ais.collector.tasks.verifiers import Verifier, open_verifier
from ais.contracts.sampling import FinishReason


class Judge(Protocol):
    """Gives rewards."""

    async def rewards(self, prompt: Prompt, responses: Sequence[tuple[str, FinishReason]]) -> tuple[float, ...]:
        """A finite reward for each response to `prompt`, in their order.

        Raises UnavailableError when a response cannot be judged and the settings make that an end.
        """
        ...


@dataclass(frozen=True)
class OwnJudge:
    """Judges in this process, which stands still meanwhile."""

    verifier: Verifier

    async def rewards(self, prompt: Prompt, responses: Sequence[tuple[str, FinishReason]]) -> tuple[float, ...]:
        return tuple(self.verifier(text, prompt, finish_reason) for text, finish_reason in responses)


@asynccontextmanager
async def open_judge(settings: CollectorSettings, observe: Observe = unobserved) -> AsyncIterator[Judge]:
    """The judge that the settings ask for, while the context is open.

    Raises TaskError or UnavailableError for a verifier that cannot be used, and UnavailableError when no worker starts.
    """
    if is_quick(settings.task):
        yield OwnJudge(open_verifier(settings.task))
        return
    async with JudgePool(settings.task, settings.judging, observe) as pool:
        yield pool


def is_quick(task: TaskSettings) -> bool:
    """Whether the verifier takes time in proportion to the response, whatever the response is.

    A pattern of the user's may take exponential time, and the scorers of reasoning-gym parse and evaluate.
    """
    return all(
        source.effective_verifier in ("exact_match", "last_step")
        or (source.effective_verifier == "regular_expression" and source.pattern is None)
        for source in task.each_source
    )
