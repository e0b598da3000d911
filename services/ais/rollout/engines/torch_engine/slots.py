"""Continuous batching as a pure state machine: who waits, who is in the batch, what each has sampled so far.

Policy:
- Rows 0 .. n-1 are the batch, without holes while a decode step runs. A sequence that ends leaves a hole; at the next
  step waiting sequences fill holes first, then rows are appended up to the capacity, then the last rows move into the
  holes that are left. So the cost of a step follows the number of running sequences, and a slot is never idle while
  somebody waits.
- Groups are served in the order they came. A group may enter in parts; its prompt is computed once, for its first
  sequence, and copied to the others, also to those that enter later while one of the first still runs.
- The token at `positions[row]` has been chosen and not been fed to the model. A new sequence starts with its last
  prompt token there, so that every sampled token, the first too, comes from a decode step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import PolicySpan
from ais.contracts.truncation.kept import KeptTokens
from ais.rollout.engine import Completion, GenerationRequest, Sampled, SamplingFailedError
from ais.rollout.engines.limits import MOST_STOP_TOKENS
from ais.rollout.engines.torch_engine.sampling import sample_key

NO_TOKEN = -1


@dataclass
class Group:
    """A request on its way through the engine."""

    ticket: int
    """Unique in the engine."""
    request: GenerationRequest
    stop_token_ids: tuple[int, ...]
    seed: int
    arrived: float
    """When the request came, in the seconds of the engine's clock."""
    streamed: bool = False
    """Whether its tokens are wanted as they are sampled."""
    entered: int = field(default=0, init=False)
    """Samples that have left the queue."""


@dataclass(frozen=True)
class Ended:
    """A sample that is over."""

    ticket: int
    row: int
    """Where it was; free now."""
    outcome: Completion | SamplingFailedError


@dataclass(frozen=True)
class Told:
    """A token of a sample that goes on."""

    ticket: int
    sampled: Sampled


@dataclass(frozen=True)
class CacheChanges:
    """What the cache must get before the next decode step: prompts of `filled` rows, then copies, then moves."""

    filled: list[int]
    """Rows whose prompt must be computed."""
    copied_from: list[int]
    copied_to: list[int]
    """Rows that get the prompt of the row at the same place in `copied_from`."""
    copied_positions: int
    """Longest prefix to copy."""
    moved_from: list[int]
    moved_to: list[int]
    """Rows that change their place."""
    moved_positions: int
    """Longest prefix to move."""


class Slots:
    """The batch and its queue. Arrays are indexed by row; only rows 0 .. `count` - 1 mean anything."""

    def __init__(self, capacity: int, positions: int) -> None:
        self.capacity = capacity
        self._length = positions
        self._waiting: deque[Group] = deque()
        self._occupants: list[tuple[Group, int] | None] = []
        self._kept: dict[tuple[int, int], list[np.ndarray]] = {}
        """By ticket and index of a sample, what truncated sampling left beside each token."""
        self.tokens = np.zeros((capacity, positions), dtype=np.int64)
        """Prompt and response of each sequence."""
        self.positions = np.zeros(capacity, dtype=np.int64)
        self.temperature = np.ones(capacity, dtype=np.float32)
        self.top_k = np.zeros(capacity, dtype=np.int64)
        self.top_p = np.ones(capacity, dtype=np.float32)
        self.min_p = np.zeros(capacity, dtype=np.float32)
        self.keys = np.zeros(capacity, dtype=np.uint64)
        """Random stream of each sequence."""
        self.draws = np.zeros(capacity, dtype=np.uint64)
        """Tokens sampled so far."""
        self._prompt_lengths = np.zeros(capacity, dtype=np.int64)
        self._last_positions = np.zeros(capacity, dtype=np.int64)
        self._stop_tokens = np.full((capacity, MOST_STOP_TOKENS), NO_TOKEN, dtype=np.int64)
        self._begun = np.zeros(capacity, dtype=np.float64)
        self._first_token = np.zeros(capacity, dtype=np.float64)
        self._logprobs = np.zeros((capacity, positions), dtype=np.float32)
        self._versions = np.zeros((capacity, positions), dtype=np.int64)
        self._per_row = [value for value in vars(self).values() if isinstance(value, np.ndarray)]

    @property
    def count(self) -> int:
        """Rows of the batch."""
        return len(self._occupants)

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self.occupied)

    @property
    def occupied(self) -> list[int]:
        """Their rows."""
        return [row for row, occupant in enumerate(self._occupants) if occupant is not None]

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return sum(group.request.samples - group.entered for group in self._waiting)

    @property
    def idle(self) -> bool:
        return not self._waiting and not any(self._occupants)

    @property
    def truncated_rows(self) -> list[int]:
        """Rows of which it is to be told what truncated sampling left to draw from."""
        return [
            row
            for row, occupant in enumerate(self._occupants)
            if occupant is not None and occupant[0].request.for_training and occupant[0].request.sampling.truncated
        ]

    def submit(self, group: Group) -> None:
        """Puts all samples of a group at the end of the queue."""
        self._waiting.append(group)

    def cancel(self, ticket: int) -> None:
        """Forgets what is left of a group. Its rows are free at the next step."""
        self._waiting = deque(group for group in self._waiting if group.ticket != ticket)
        for row, occupant in enumerate(self._occupants):
            if occupant is not None and occupant[0].ticket == ticket:
                self._occupants[row] = None
                self._kept.pop((ticket, occupant[1]), None)

    def admit(self) -> CacheChanges:
        """Fills free rows from the queue and closes the holes that are left."""
        filled: list[int] = []
        copied_from: list[int] = []
        copied_to: list[int] = []
        free = [row for row, occupant in enumerate(self._occupants) if occupant is None]
        free += range(self.count, self.capacity)
        free.reverse()
        while self._waiting and free:
            group = self._waiting[0]
            source = self._row_of(group) if group.entered else None
            while group.entered < group.request.samples and free:
                row = free.pop()
                self._enter(group, row)
                if len(group.request.prompt_token_ids) == 1:
                    continue  # nothing comes before the token that the decode step feeds
                if source is None:
                    source = row
                    filled.append(row)
                else:
                    copied_from.append(source)
                    copied_to.append(row)
            if group.entered == group.request.samples:
                self._waiting.popleft()
        moved_from, moved_to = self._close_holes()
        return CacheChanges(
            filled=filled,
            copied_from=copied_from,
            copied_to=copied_to,
            copied_positions=int(self._prompt_lengths[copied_to].max(initial=1)) - 1,
            moved_from=moved_from,
            moved_to=moved_to,
            moved_positions=int(self.positions[moved_to].max(initial=0)),
        )

    def record(
        self,
        tokens: np.ndarray,
        logprobs: np.ndarray,
        version: int,
        now: float,
        kept: Mapping[int, np.ndarray] = MappingProxyType({}),
    ) -> list[Ended]:
        """Takes one sampled token of every row, int64 and float32 [count], and what was `kept` beside it in the
        `truncated_rows`; gives what has ended.

        A row whose log-prob is not finite had no distribution to sample from: that sample has failed.
        """
        count = self.count
        rows = np.arange(count)
        positions = self.positions[:count]
        positions += 1
        self.tokens[rows, positions] = tokens
        self._logprobs[rows, positions] = logprobs
        self._versions[rows, positions] = version
        self._first_token[:count][self.draws[:count] == 0] = now
        self.draws[:count] += np.uint64(1)
        for row, others in kept.items():
            if (occupant := self._occupants[row]) is not None:
                self._kept.setdefault((occupant[0].ticket, occupant[1]), []).append(others)
        broken = ~np.isfinite(logprobs)
        stopped = (tokens[:, None] == self._stop_tokens[:count]).any(axis=1)
        over = broken | stopped | (positions >= self._last_positions[:count])
        ended = []
        for row in np.flatnonzero(over).tolist():
            occupant = self._occupants[row]
            assert occupant is not None
            reason = FinishReason.STOP if stopped[row] else FinishReason.LENGTH
            outcome = self._failure(row, occupant) if broken[row] else self._completion(row, occupant, reason, now)
            ended.append(Ended(occupant[0].ticket, row, outcome))
            self._occupants[row] = None
            self._kept.pop((occupant[0].ticket, occupant[1]), None)
        return ended

    def newest(self) -> list[Told]:
        """The newest token of each running sequence whose group is streamed. Call it after `record`."""
        told = []
        for row, occupant in enumerate(self._occupants):
            if occupant is not None and occupant[0].streamed:
                place = row, self.positions[row]
                sampled = Sampled(occupant[1], (int(self.tokens[place]),), (float(self._logprobs[place]),))
                told.append(Told(occupant[0].ticket, sampled))
        return told

    def _enter(self, group: Group, row: int) -> None:
        request, sampling = group.request, group.request.sampling
        prompt = request.prompt_token_ids
        if row == self.count:
            self._occupants.append(None)
        self._occupants[row] = (group, group.entered)
        self.tokens[row, : len(prompt)] = prompt
        self.positions[row] = len(prompt) - 1
        self._prompt_lengths[row] = len(prompt)
        self._last_positions[row] = min(len(prompt) + sampling.max_new_tokens, self._length) - 1
        self._stop_tokens[row] = NO_TOKEN
        self._stop_tokens[row, : len(group.stop_token_ids)] = group.stop_token_ids
        # Greedy is the distribution truncated to its most likely token.
        temperature = np.float32(sampling.temperature)  # the smallest ones become 0
        self.temperature[row], self.top_k[row] = (temperature, sampling.top_k) if temperature > 0 else (1.0, 1)
        self.top_p[row], self.min_p[row] = sampling.top_p, sampling.min_p
        self.keys[row] = sample_key(group.seed, group.entered)
        self.draws[row] = 0
        self._begun[row] = time.monotonic()
        group.entered += 1

    def _row_of(self, group: Group) -> int | None:
        """A row that holds a sequence of this group, and so its prompt."""
        rows = (row for row, occupant in enumerate(self._occupants) if occupant is not None and occupant[0] is group)
        return next(rows, None)

    def _close_holes(self) -> tuple[list[int], list[int]]:
        kept = self.running
        targets = [row for row in range(kept) if self._occupants[row] is None]
        sources = [row for row in range(kept, self.count) if self._occupants[row] is not None]
        for source, target in zip(sources, targets, strict=True):
            self._occupants[target] = self._occupants[source]
        if targets:
            for array in self._per_row:
                array[targets] = array[sources]
        del self._occupants[kept:]
        return sources, targets

    def _failure(self, row: int, occupant: tuple[Group, int]) -> SamplingFailedError:
        group, index = occupant
        return SamplingFailedError(
            f"sample {index} of {group.request.group_id}: the policy's log-probs of response token "
            f"{int(self.draws[row]) - 1} are NaN or infinite at temperature {group.request.sampling.temperature:g}"
        )

    def _completion(self, row: int, occupant: tuple[Group, int], reason: FinishReason, now: float) -> Completion:
        group, index = occupant
        response = slice(int(self._prompt_lengths[row]), int(self.positions[row]) + 1)
        kept = self._kept.get((group.ticket, index))
        return Completion(
            index=index,
            token_ids=self.tokens[row, response].astype(np.int32),
            logprobs=self._logprobs[row, response].copy(),
            spans=policy_spans(self._versions[row, response]),
            finish_reason=reason,
            first_token_seconds=float(self._first_token[row]) - group.arrived,
            total_seconds=now - group.arrived,
            queued_seconds=float(self._begun[row]) - group.arrived,
            kept=None if kept is None else KeptTokens.of(kept),
        )


def policy_spans(versions: Sequence[int] | np.ndarray) -> tuple[PolicySpan, ...]:
    """Runs of equal versions, in order."""
    versions = np.asarray(versions)
    begins = [0, *(np.flatnonzero(np.diff(versions)) + 1).tolist()]
    ends = [*begins[1:], len(versions)]
    return tuple(PolicySpan(int(versions[begin]), begin, end) for begin, end in zip(begins, ends, strict=True))
