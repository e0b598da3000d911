"""What a program asks of the policy in one episode, answered and recorded token for token.

A call whose messages go on from all that was said before, the policy's answer as it was given included, continues that
branch: its tokens stay as they were sampled, and the new messages are added as the chat template writes them. Any other
call begins a branch of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from ais.collector.episodes.joining import SampledTurn
from ais.collector.episodes.table import Table
from ais.collector.exercise import Ending
from ais.collector.judging.harness.endpoint import over
from ais.collector.judging.harness.wire import CallRefusedError, Completed, Completion
from ais.collector.prompts.dialogue import Dialogue
from ais.collector.prompts.prompts import Messages
from ais.collector.replicas.generation import GenerationError
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import MalformedRecordError
from ais.runtime.process import UnavailableError

POLICY = "assistant"
"""The policy's role."""


@dataclass(eq=False)
class Branch:
    """A conversation with the policy."""

    dialogue: Dialogue
    prompt_token_ids: list[int]
    said: Messages
    """All messages so far, the policy's included."""
    tokens: list[int]
    """All that was said, the prompt included."""
    turns: list[SampledTurn] = field(default_factory=list)
    busy: bool = False
    """Whether a turn is being sampled."""

    def continued_by(self, messages: Messages) -> Messages:
        """The new messages, where `messages` go on from all that was said; otherwise none."""
        new = messages[len(self.said) :]
        goes_on = bool(self.turns) and not self.busy and messages[: len(self.said)] == self.said
        return new if goes_on and all(message["role"] != POLICY for message in new) else ()

    def context_of(self, dialogue: Dialogue) -> list[int]:
        """The tokens before the next turn of what is now the `dialogue`. Raises UnavailableError."""
        last = self.turns[-1].response
        stopped = last.finish_reason is FinishReason.STOP
        return dialogue.tokens_before_next_turn(int(last.token_ids[-1]) if stopped else None)

    @property
    def sampled(self) -> int:
        """Tokens that the policy sampled."""
        return sum(len(turn.response.token_ids) for turn in self.turns)


class Recording:
    """Answers the calls of one episode."""

    def __init__(self, table: Table, index: int) -> None:
        self.branches: list[Branch] = []
        self.reward: float | None = None
        self.budget: Ending | None = None
        """Which one allowed no other call."""
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises GenerationError where a call came to nothing: the group has to start again."""
        self._table, self._index, self._calls, self._over = table, index, 0, False

    def close(self) -> None:
        """No call is answered any more, and those under way are not recorded."""
        self._over = True

    def end(self, reward: float) -> None:
        """The episode is over. Raises CallRefusedError where the verifiers give the reward, and after the end."""
        if not self._table.settings.judges:
            raise CallRefusedError(400, "the verifiers give the reward (environment.judged_by)", "no_reward_wanted")
        self._check_open()
        self.reward = reward
        self.close()

    async def complete(self, asked: Completion) -> Completed:
        """Raises CallRefusedError."""
        self._check_open()
        self._check_budget()
        messages: Messages = tuple({"role": one.role, "content": one.text} for one in asked.messages)
        try:
            branch, dialogue, context = self._branch(messages)
        except UnavailableError as error:  # the template or the tokenizer refuses what the program says
            raise CallRefusedError(400, str(error), "invalid_value", "messages") from None
        self._check_budget(len(branch.tokens) + len(context))
        if branch not in self.branches:
            self.branches.append(branch)
        number = self._calls
        self._calls += 1
        branch.busy = True
        try:
            most = asked.most_tokens(self._table.call.sampling.max_new_tokens)
            response = await self._table.sampled(self._index, number, [*branch.tokens, *context], most)
            turn = SampledTurn(context, response)
            self._table.check_versions([*branch.turns, turn])
        except (GenerationError, MalformedRecordError) as error:
            if not self.broken.done():
                self.broken.set_exception(error)
            raise CallRefusedError(503, "the policy cannot be asked; the episode starts again", "unavailable") from None
        finally:
            branch.busy = False
        self._check_open()
        said = self._table.exercise.response(response)
        prompt_tokens = len(branch.tokens) + len(context)
        branch.dialogue = dialogue
        branch.turns.append(turn)
        branch.tokens += [*context, *response.token_ids.tolist()]
        branch.said = (*messages, {"role": POLICY, "content": said.text})
        name = f"chatcmpl-{self._index}-{number}"
        return Completed(name, said.text, said.finish_reason, prompt_tokens, said.tokens)

    def _branch(self, messages: Messages) -> tuple[Branch, Dialogue, list[int]]:
        """The branch that is to go on, or a new one; its dialogue then, and the tokens before its next turn."""
        for branch in self.branches:
            if new := branch.continued_by(messages):
                dialogue = branch.dialogue.after(new)
                return branch, dialogue, branch.context_of(dialogue)
        dialogue = Dialogue(self._table.exercise.tokenizer, messages)
        prompt = dialogue.prompt()
        return Branch(dialogue, prompt, messages, list(prompt)), dialogue, []

    def _check_open(self) -> None:
        if self._over or self.broken.done():
            raise over()

    def _check_budget(self, tokens: int = 0) -> None:
        """Before a call is looked at, and when the `tokens` are known that the policy would go on from."""
        added = sum(len(one.tokens) - len(one.prompt_token_ids) for one in self.branches)
        self.budget = self._table.budget_used(self._calls, added, tokens)
        if self.budget is not None:
            code = "context_length_exceeded" if self.budget == "context" else "episode_budget_exceeded"
            raise CallRefusedError(400, f"no other turn is allowed: environment.{self.budget} is used up", code)


def main_branch(branches: Sequence[Branch], prompt_token_ids: Sequence[int]) -> Branch | None:
    """The one that is trained on: of those that began with the group's prompt, the one of the most sampled tokens."""
    begun = [one for one in branches if one.turns and one.prompt_token_ids == prompt_token_ids]
    return max(begun, key=lambda branch: branch.sampled, default=None)
