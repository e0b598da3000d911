"""The prompts of a run together with what turns them into tokens and responses into rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ais.collector.prompts.prompts import Prompt, Split, TaskError, TaskSource
from ais.collector.prompts.room import PromptRoom, context_of
from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer
from ais.collector.settings import CollectorProcessSettings
from ais.collector.tasks.task import open_task
from ais.collector.tasks.verifiers import Verifier, open_verifier
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import Trajectory
from ais.runtime.process import UnavailableError


@dataclass(frozen=True)
class Exercise:
    """One task for one policy. Training and evaluation both ask and judge through it."""

    task: TaskSource
    tokenizer: PolicyTokenizer
    verifier: Verifier

    def ask(self, ordinal: int) -> tuple[Prompt, list[int]]:
        """The prompt of an ordinal, and its tokens."""
        prompt = self.task.prompt(ordinal)
        return prompt, self.tokenizer.encode_prompt(prompt.text)

    def rewards(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> tuple[float, ...]:
        """A reward in [0, 1] for each response to `prompt`, in their order."""
        return tuple(self._reward(prompt, trajectory) for trajectory in trajectories)

    def _reward(self, prompt: Prompt, trajectory: Trajectory) -> float:
        token_ids = trajectory.token_ids
        if trajectory.finish_reason is FinishReason.STOP:
            token_ids = token_ids[:-1]  # the stop token, which not every tokenizer calls special
        text = self.tokenizer.decode_response(token_ids.tolist())
        return self.verifier(text, prompt, trajectory.finish_reason)


def open_exercise(settings: CollectorProcessSettings, split: Split) -> Exercise:
    """The prompts of `split` and what judges their responses. Raises UnavailableError when one cannot be used."""
    task, run = settings.collector.task, settings.run
    tokenizer = open_tokenizer(run.model, settings.collector.prompt)
    room = PromptRoom(tokenizer, context_of(run.model, settings.rollout.max_model_len))
    try:
        return Exercise(open_task(task, run.seed, split, room.fits), tokenizer, open_verifier(task))
    except TaskError as error:
        raise UnavailableError(str(error)) from error


def check_evaluation(settings: CollectorProcessSettings) -> None:
    """Opens what evaluation will need, so that a bad row is found before training and not after it.

    Raises UnavailableError.
    """
    if settings.collector.task.name == "jsonl":
        open_exercise(settings, Split.HELD_OUT)
