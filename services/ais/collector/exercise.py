"""The prompts of a run together with what turns them into tokens and responses into rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ais.collector.prompts.prompts import Prompt, TaskSource
from ais.collector.prompts.tokenizer import PolicyTokenizer
from ais.collector.tasks.verifiers import Verifier
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import Trajectory


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
