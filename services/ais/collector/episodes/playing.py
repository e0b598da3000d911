"""A group of episodes: the policy and an environment take turns, until that is over or a budget is used up.

All turns of a group are sampled by one replica. It has their prefixes, its versions never go back, and where it is lost
the group starts again elsewhere, as a group of single responses does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ais.collector.environments.protocol import PolicyTurn
from ais.collector.episodes.call import Answers
from ais.collector.episodes.group import Episode, answers_of, play_all
from ais.collector.episodes.joining import SampledTurn
from ais.collector.episodes.table import Table
from ais.collector.exercise import Ending
from ais.collector.judging.hosts import Host, Opening
from ais.collector.judging.judge import UnjudgedError
from ais.collector.prompts.dialogue import Dialogue
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import Trajectory
from ais.runtime.process import UnavailableError


async def play(table: Table, host: Host, on_arrival: Callable[[], object] = lambda: None) -> Answers:
    """All episodes of a group; `on_arrival` is called for each that ends.

    Raises GenerationError, UnjudgedError and UnavailableError; the first that goes wrong ends all.
    """
    with table.client.held():
        opening = await table.by_the_deadline(host.begin(table.prompt))
        dialogue = Dialogue(table.exercise.tokenizer, opening.question, opening.tools)
        game = _Game(table, host, opening, dialogue, dialogue.prompt(), on_arrival)
        episodes = await play_all(game.episode(index) for index in range(table.call.samples))
    return answers_of(game.prompt_token_ids, episodes)


@dataclass(frozen=True)
class _Game:
    """What the episodes begin with."""

    table: Table
    host: Host
    opening: Opening
    dialogue: Dialogue
    prompt_token_ids: list[int]
    on_arrival: Callable[[], object]

    async def episode(self, index: int) -> Episode:
        place, dialogue, table = self.opening.place, self.dialogue, self.table
        tokens, context, turns = list(self.prompt_token_ids), list[int](), list[SampledTurn]()
        most = table.call.sampling.max_new_tokens
        while True:
            response = await table.sampled(index, len(turns), [*tokens, *context], most)
            turns.append(SampledTurn(context, response))
            table.check_versions(turns)
            tokens += [*context, *response.token_ids.tolist()]
            added = len(tokens) - len(self.prompt_token_ids)
            ending = table.budget_used(len(turns), added, len(tokens)) or table.time_used()
            turn = self._said(response, len(turns) - 1, ending)
            told = await table.by_the_deadline(self.host.answer(place, table.prompt, turn))
            place = told.place
            if told.done:
                ending = "failed" if told.failed else "done"
            elif ending is None:
                dialogue = dialogue.after(told.messages)
                context = self._context_of(dialogue, response)
                ending = "context" if table.is_full(len(tokens) + len(context)) else None
            if ending is not None:
                trajectory = table.ended(index, turns, ending)
                self.on_arrival()
                return Episode(trajectory, told.parts)

    def _context_of(self, dialogue: Dialogue, response: Trajectory) -> list[int]:
        """What is read before the next turn. Raises UnjudgedError for messages that cannot be written in tokens."""
        stopped = response.finish_reason is FinishReason.STOP
        try:
            return dialogue.tokens_before_next_turn(int(response.token_ids[-1]) if stopped else None)
        except UnavailableError as error:
            prompt_id = self.table.prompt.prompt_id
            raise UnjudgedError(
                f"what the environment of prompt {prompt_id!r} says cannot be written in tokens: {error}"
            ) from error

    def _said(self, response: Trajectory, number: int, ending: Ending | None) -> PolicyTurn:
        said = self.table.exercise.response(response)
        left = 0 if ending is not None else self.table.settings.turns - number - 1
        return PolicyTurn(said.text, said.finish_reason, number, left, said.tokens, said.most_tokens)
