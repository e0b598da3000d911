"""What a program asks of the policy in one episode, answered and recorded token for token.

A call whose messages go on from all that was said before, the policy's answer as it was given included, continues that
branch: its tokens stay as they were sampled, and the new messages are added as the chat template writes them, or all is
read anew where the template does not go on where it stopped. Any other call begins a branch of its own. A call whose
client leaves, and one that is under way when the episode ends, is cancelled and leaves no turn: nobody has seen its
answer.
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from ais.collector.episodes.conversations import Chat, Conversation
from ais.collector.episodes.conversations import begun as begun_by
from ais.collector.episodes.joining import SampledTurn
from ais.collector.episodes.saying import logprobs_of, said_by, why_no_stop
from ais.collector.episodes.table import Table
from ais.collector.episodes.telling import Telling
from ais.collector.exercise import Ending
from ais.collector.judging.harness.answers import Completed, Finish
from ais.collector.judging.harness.endpoint import over
from ais.collector.judging.harness.raw_answers import RawCompleted
from ais.collector.judging.harness.wire import Asked, CallRefusedError, Completion, End, Told
from ais.collector.judging.judgement import Failure, Outcome
from ais.collector.prompts.dialogue import Continuation
from ais.collector.replicas.generation import Cause, GenerationError
from ais.collector.replicas.progress import SampledTokens
from ais.collector.rewards.response import Response
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import MalformedRecordError, Trajectory
from ais.runtime.process import UnavailableError
from ais.runtime.tasks import end_tasks
from ais.runtime.text import printable

Made = TypeVar("Made")
MOST_AT_ONCE = 64
"""Calls of one episode that are answered at once: 429 for any more."""
_FINISH: Mapping[FinishReason, Finish] = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}
QUICK = 16_384
"""Characters of a conversation, or tokens of an answer, up to which they are turned into one another at once: a few
milliseconds at most. For short ones a thread would cost more than the work."""
_TOKENISERS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenise")
"""Do so with what is longer, megabytes maybe, while the collector goes on. What is more at once waits."""


@dataclass(eq=False)
class Branch:
    """A conversation with the policy."""

    conversation: Conversation
    prompt_token_ids: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """The sequence so far: all that was said, the prompt included, or what the last turn that began anew has read, and
    what came after."""
    added: int = 0
    """Tokens read or sampled after the prompt, those read again included."""
    turns: list[SampledTurn] = field(default_factory=list)
    judged: Response = field(default_factory=lambda: Response(""))
    """The last turn, as verifiers get it."""
    busy: bool = False
    """Whether a turn is being sampled."""
    began: int = 0
    """The number of its first call."""

    def continued_by(self, asked: Asked) -> Conversation | None:
        """The conversation as the call goes on from all that was said; None: it does not."""
        return None if self.busy or not self.turns else self.conversation.after(asked)

    def before(self, conversation: Conversation) -> Continuation:
        """What is read before the next turn of what is now the `conversation`; in the first turn, the prompt.

        Raises UnavailableError.
        """
        if not self.turns:
            return Continuation(conversation.first_tokens())
        last = self.turns[-1].response
        stopped = last.finish_reason is FinishReason.STOP
        return conversation.next_turn(int(last.token_ids[-1]) if stopped else None)

    def after(self, read: Continuation) -> list[int]:
        """The sequence that the policy goes on from."""
        return [*([] if read.begins_anew else self.tokens), *read.token_ids]

    def answered(self, read: Continuation, response: Trajectory, judged: Response) -> None:
        """The policy has had a turn."""
        self.tokens = [*self.after(read), *response.token_ids.tolist()]
        self.judged = judged
        if self.turns:
            self.added += len(read.token_ids)
            self.turns.append(SampledTurn(read.token_ids, response, read.begins_anew))
        else:
            self.prompt_token_ids = read.token_ids
            self.turns.append(SampledTurn([], response))
        self.added += len(response.token_ids)

    @property
    def sampled(self) -> int:
        """Tokens that the policy sampled."""
        return sum(len(turn.response.token_ids) for turn in self.turns)


class Recording:
    """Answers the calls of one episode."""

    def __init__(self, table: Table, index: int, calls: int = 0) -> None:
        """`calls`: those of earlier recordings of this episode, whose names and random numbers are not used again."""
        self.branches: list[Branch] = []
        """Those that have turns, in the order of their first calls."""
        self.reward: float | None = None
        self.ended = asyncio.Event()
        """The program has ended the episode."""
        self.budget: Ending | None = None
        """Which one allowed no other call."""
        self.failure: Failure | None = None
        """What the program has ended the episode as, where that was no success."""
        self.refused = ""
        """Why the last call was refused that was."""
        self.heard = time.monotonic()
        """When somebody last came with the key, or was answered."""
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises GenerationError where a call came to nothing: the group has to start again."""
        self.calls = calls
        """Calls so far."""
        self._table, self._index, self._over = table, index, False
        self._under_way: set[asyncio.Task[Completed]] = set()

    def close(self) -> None:
        """No call is answered any more, and those under way are cancelled."""
        self._over = True
        for task in self._under_way:
            task.cancel()

    @property
    def is_asking(self) -> bool:
        """Whether a call is being answered."""
        return bool(self._under_way)

    def end(self, told: End) -> None:
        """The episode is over. Raises CallRefusedError for a reward that the verifiers give, and after the end."""
        if told.reward is not None and not self._table.settings.judges:
            raise CallRefusedError(400, "the verifiers give the reward (environment.judged_by)", "no_reward_wanted")
        self._check_open()
        self.reward = told.reward
        if told.failed is not None:
            self.failure = Failure(Outcome.ERROR, f"the program says that it failed: {printable(told.failed, 500)}")
        elif told.again:
            self.failure = Failure(Outcome.LOST, "the program cannot go on, and says so")
        self.close()
        self.ended.set()

    async def complete(self, asked: Asked, told: Told = lambda *_: None) -> Completed:
        """`told` gets what can be told of the answer while it is sampled, where the call asks for a stream.

        Raises CallRefusedError. Cancelled, it leaves nothing behind.
        """
        self._check_open()
        if len(self._under_way) >= MOST_AT_ONCE:
            raise CallRefusedError(429, f"{MOST_AT_ONCE} calls are being answered: ask later", "rate_limit_exceeded")
        self._check_budget()
        answering = asyncio.create_task(self._answer(asked, told))
        self._under_way.add(answering)
        answering.add_done_callback(self._answered)
        try:
            await asyncio.wait((answering,))
        finally:
            await end_tasks(answering)
        if answering.cancelled():
            raise over()
        return answering.result()

    def _answered(self, answering: asyncio.Task[Completed]) -> None:
        self._under_way.discard(answering)
        self.heard = time.monotonic()

    async def _answer(self, asked: Asked, told: Told) -> Completed:
        exercise, number = self._table.exercise, self.calls
        if why := why_no_stop(exercise.tokenizer, asked.stops):
            raise CallRefusedError(400, f"stop: {why}", "invalid_value", "stop")
        self.calls += 1
        name = f"{'chat' if isinstance(asked, Completion) else ''}cmpl-{self._table.call.name}.{self._index}.{number}"
        branch, conversation = self._branch(asked, number)
        branch.busy = True
        try:
            read = await self._before(branch, conversation, asked.size)
            prompt = branch.after(read)
            self._check_room(prompt)
            telling = Telling(
                exercise.tokenizer,
                asked.stops,
                may_call=conversation.tools is not None,
                wants_logprobs=asked.wants_logprobs,
            )
            tell = (lambda sampled: told(name, telling.more(sampled))) if asked.stream else None
            response = await self._sampled(branch, prompt, asked, number, tell)
            size = len(response.token_ids)
            said = await _without_delay(size, partial(said_by, exercise, response, asked.stops, conversation.tools))
            if not telling.is_begun_by(said.text, len(said.response.token_ids)):
                raise CallRefusedError(500, "the tokenizer cannot decode a part of an answer: ask without stream")
            logprobs = (
                await _without_delay(size, logprobs_of, exercise.tokenizer, said.response)
                if asked.wants_logprobs
                else None
            )
        finally:
            branch.busy = False
        finish: Finish = "tool_calls" if said.calls else _FINISH[said.judged.finish_reason]
        kind = Completed if isinstance(asked, Completion) else RawCompleted
        token_ids = said.response.token_ids.tolist()
        completed = kind(name, said.text, finish, len(prompt), said.judged.tokens, said.calls, logprobs, token_ids)
        branch.answered(read, said.response, said.judged)
        branch.conversation = conversation.answered(completed, said.judged.text)
        if branch not in self.branches:
            insort(self.branches, branch, key=lambda one: one.began)
        return completed

    def _branch(self, asked: Asked, number: int) -> tuple[Branch, Conversation]:
        """The branch that is to go on, or a new one; its conversation then."""
        for branch in self.branches:
            if (going_on := branch.continued_by(asked)) is not None:
                return branch, going_on
        conversation = begun_by(asked, self._table.dialogue, self._table.exercise.tokenizer)
        return Branch(conversation, began=number), conversation

    async def _before(self, branch: Branch, conversation: Conversation, size: int) -> Continuation:
        """What is read before the next turn of a conversation of `size` characters. Raises CallRefusedError."""
        try:
            read = await _without_delay(size, branch.before, conversation)
        except UnavailableError as error:  # the template or the tokenizer refuses what the program says
            raise CallRefusedError(400, str(error), "invalid_value", _param(str(error), conversation)) from None
        if not read.token_ids:
            param = _param("", conversation)
            raise CallRefusedError(400, f"the {param} have no tokens: say something", "invalid_value", param)
        return read

    async def _sampled(
        self,
        branch: Branch,
        prompt: list[int],
        asked: Asked,
        number: int,
        tell: Callable[[SampledTokens], object] | None,
    ) -> Trajectory:
        """The policy's turn. Raises CallRefusedError, and breaks the episode where the replica is at fault."""
        try:
            most = asked.most_tokens(self._table.call.sampling.max_new_tokens)
            response = await self._table.sampled(self._index, number, prompt, most, tell)
            self._table.check_versions([*self._trained_with(branch), SampledTurn([], response)])
        except (GenerationError, MalformedRecordError) as error:
            if isinstance(error, GenerationError) and error.cause is Cause.REFUSED:  # that is the program's affair
                raise CallRefusedError(400, f"the replica refuses: {error}", "invalid_value", "messages") from None
            if not self.broken.done():
                self.broken.set_exception(error)
            raise CallRefusedError(503, "the policy cannot be asked; the episode starts again", "unavailable") from None
        return response

    def _trained_with(self, branch: Branch) -> list[SampledTurn]:
        """The turns so far that are one trajectory with what comes next in the branch."""
        if self._table.settings.branches == "longest":
            return branch.turns
        return [turn for one in self.branches for turn in one.turns]

    def _check_open(self) -> None:
        if self._over or self.broken.done():
            raise over()

    def _check_budget(self) -> None:
        """Before a call is looked at. Those under way count as turns, and those that were cancelled do not."""
        turns = sum(len(one.turns) for one in self.branches) + len(self._under_way)
        added = sum(one.added for one in self.branches)
        self._keep(self._table.budget_used(turns, added, 0))

    def _check_room(self, prompt: Sequence[int]) -> None:
        """When the tokens are known that the policy would go on from."""
        self._keep("context" if self._table.is_full(len(prompt)) else None)

    def _keep(self, budget: Ending | None) -> None:
        """Raises CallRefusedError where that is used up."""
        self.budget = budget
        if budget is not None:
            code = "context_length_exceeded" if budget == "context" else "episode_budget_exceeded"
            raise CallRefusedError(400, f"no other turn is allowed: environment.{budget} is used up", code)


async def _without_delay(size: int, work: Callable[..., Made], *arguments: object) -> Made:
    """What `work` gives, done while the collector goes on where there is so much that it would wait."""
    if size <= QUICK:
        return work(*arguments)
    return await asyncio.get_running_loop().run_in_executor(_TOKENISERS, work, *arguments)


def _param(why: str, conversation: Conversation) -> str:
    """Which of what was asked is refused so."""
    if not isinstance(conversation, Chat):
        return "prompt"
    return "tools" if why.startswith("tools") else "messages"


def main_branch(branches: Sequence[Branch], prompt_token_ids: Sequence[int]) -> Branch | None:
    """The one that is trained on: of those that began with the group's prompt, the one of the most sampled tokens."""
    begun = [one for one in branches if one.prompt_token_ids == prompt_token_ids]
    return max(begun, key=lambda branch: branch.sampled, default=None)


def all_turns(main: Branch, branches: Sequence[Branch]) -> list[SampledTurn]:
    """Those of the main branch, and those of all others, each of which begins anew."""
    turns = list(main.turns)
    for one in branches:
        if one is not main:
            first, *further = one.turns
            turns += [SampledTurn(one.prompt_token_ids, first.response, begins_anew=True), *further]
    return turns
