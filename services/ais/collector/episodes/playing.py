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
from ais.collector.prompts.dialogue import Continuation, Dialogue, Said
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import Trajectory
from ais.runtime.process import UnavailableError


async def play(table: Table, host: Host, on_arrival: Callable[[], object] = lambda: None) -> Answers:
    """All episodes of a group; `on_arrival` is called for each that ends.

    Raises GenerationError, UnjudgedError and UnavailableError; the first that goes wrong ends all.
    """
    with table.client.held():
        opening = await table.by_the_deadline(host.begin(table.prompt))
        dialogue = table.dialogue(opening.question, opening.tools)
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
        tokens, added, turns = list(self.prompt_token_ids), 0, list[SampledTurn]()
        read = Continuation([])
        most = table.call.sampling.max_new_tokens
        while True:
            response = await table.sampled(index, len(turns), tokens, most)
            turns.append(SampledTurn(read.token_ids, response, read.begins_anew))
            table.check_versions(turns)
            tokens += response.token_ids.tolist()
            added += len(read.token_ids) + len(response.token_ids)
            ending = table.budget_used(len(turns), added, len(tokens)) or table.time_used()
            turn = self._said(response, len(turns) - 1, ending)
            told = await table.by_the_deadline(self.host.answer(place, table.prompt, turn))
            place = told.place
            if told.done:
                ending = "failed" if told.failed else "done"
            elif ending is None:
                dialogue = dialogue.after(told.messages, Said.plainly(turn.text))
                read = self._read_after(dialogue, response)
                tokens = [*([] if read.begins_anew else tokens), *read.token_ids]
                ending = "context" if table.is_full(len(tokens)) else None
            if ending is not None:
                trajectory = table.ended(index, turns, ending)
                self.on_arrival()
                return Episode(trajectory, told.parts)

    def _read_after(self, dialogue: Dialogue, response: Trajectory) -> Continuation:
        """What is read before the next turn. Raises UnjudgedError for messages that cannot be written in tokens."""
        stopped = response.finish_reason is FinishReason.STOP
        try:
            return dialogue.next_turn(int(response.token_ids[-1]) if stopped else None)
        except UnavailableError as error:
            prompt_id = self.table.prompt.prompt_id
            raise UnjudgedError(
                f"what the environment of prompt {prompt_id!r} says cannot be written in tokens: {error}"
            ) from error

    def _said(self, response: Trajectory, number: int, ending: Ending | None) -> PolicyTurn:
        said = self.table.exercise.response(response)
        left = 0 if ending is not None else self.table.settings.turns - number - 1
        return PolicyTurn(said.text, said.finish_reason, number, left, said.tokens, said.most_tokens)
