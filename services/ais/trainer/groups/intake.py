"""Decides which groups are trained on: a pure state machine between the queue and the optimizer.

Batch k is exactly the groups with ordinals [k * B, (k + 1) * B) and is trained when the policy is at version k. So an
entry is judged on arrival, once, against the version that its own batch will have:

- seen already (the queue delivered the same entry again, or the checkpoint the trainer resumed from has its effect):
  nothing to do;
- its ordinal is buffered or trained: a duplicate, to be acknowledged;
- malformed, sampled in a way that cannot be trained on, or too stale: refused with the field and the reason;
- otherwise buffered until its batch is complete and its turn has come.

A trainer that resumed is at an older version than the one before it was, so the queue may hold groups of batches that
are still ahead of it, and its own batches may have been sampled by versions it has not made again yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ais.contracts.queue import Entry
from ais.contracts.routing.routed import NOT_TOLD as NO_ROUTES
from ais.contracts.routing.shape import RoutingShape
from ais.contracts.trajectory import MalformedRecordError, ScoredGroup, Trajectory, TrajectoryBounds, decode_group
from ais.contracts.truncation.kept import NOT_TOLD
from ais.runtime.settings import RunSettings

LOWEST_TEMPERATURE = 1e-4
"""Below it one token has all of the probability, and logits divided by it leave the range of float32."""


@dataclass(frozen=True)
class Buffered:
    """A group fit for training, with the queue entry to acknowledge once that is durable."""

    entry: Entry
    group: ScoredGroup


@dataclass(frozen=True)
class Duplicate:
    """The ordinal has a group already."""


@dataclass(frozen=True)
class Known:
    """This very entry has been judged before."""


@dataclass(frozen=True)
class Refused:
    """The group must not be trained on."""

    field: str
    reason: str


Verdict = Buffered | Duplicate | Known | Refused


class Intake:
    """Judges entries and hands out complete batches in order."""

    def __init__(
        self,
        run: RunSettings,
        vocab_size: int,
        context_length: int,
        *,
        version: int = 0,
        announced: int = 0,
        covered: Iterable[str] = (),
        routing: RoutingShape | None = None,
    ) -> None:
        """`version`: where training starts. `announced`: the newest version any trainer of this run has announced; up
        to there groups may have been admitted. `covered`: ids of entries that are trained and not acknowledged.
        `routing`: the policy's, where the experts that read each token are replayed: every response must have them."""
        self._run = run
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._routing = routing
        self._version = version
        self._announced = announced
        self._next_ordinal = version * run.groups_per_batch
        self._buffer: dict[int, Buffered] = {}
        self._unacknowledged: set[str] = set(covered)

    @property
    def version(self) -> int:
        """Version of the policy: number of batches trained."""
        return self._version

    def judge(self, entry: Entry) -> Verdict:
        """Decides on one queue entry and buffers it when it is good."""
        if entry.entry_id in self._unacknowledged:
            return Known()
        if 0 <= entry.ordinal < self._next_ordinal or entry.ordinal in self._buffer:
            return Duplicate()
        trained_at = entry.ordinal // self._run.groups_per_batch
        try:
            group = decode_group(entry.payload, TrajectoryBounds(self._vocab_size, max(0, trained_at)))
            self._check(entry, group)
        except MalformedRecordError as error:
            return Refused(error.field, error.reason)
        self._buffer[entry.ordinal] = buffered = Buffered(entry, group)
        self._unacknowledged.add(entry.entry_id)
        return buffered

    def complete(self) -> bool:
        """Whether every group of the next batch is here."""
        return not self.missing()

    def missing(self) -> list[int]:
        """Ordinals of the next batch whose group is not here."""
        return [ordinal for ordinal in self._next_ordinals() if ordinal not in self._buffer]

    def oldest(self) -> float | None:
        """When the oldest group that waits here was published, Unix time in seconds by the server's clock."""
        times = [int(item.entry.entry_id.partition("-")[0]) for item in self._buffer.values()]
        return min(times) / 1000 if times else None

    def batch(self) -> list[Buffered]:
        """The next batch, in order of ordinals; call only when it is complete."""
        return [self._buffer[ordinal] for ordinal in self._next_ordinals()]

    def remove(self, item: Buffered) -> None:
        """The group is refused after all; another of its ordinal is judged when it comes."""
        del self._buffer[item.entry.ordinal]
        self._unacknowledged.discard(item.entry.entry_id)

    def take(self) -> list[Buffered]:
        """Removes the next batch, in order of ordinals; call only when it is complete."""
        batch = [self._buffer.pop(ordinal) for ordinal in self._next_ordinals()]
        self._next_ordinal += self._run.groups_per_batch
        return batch

    def advance(self) -> None:
        """The batch that was taken is trained: the policy is one version further."""
        self._version += 1

    def forget(self, entry_ids: Iterable[str]) -> None:
        """The entries are acknowledged; the queue cannot deliver them again."""
        self._unacknowledged.difference_update(entry_ids)

    def _next_ordinals(self) -> range:
        return range(self._next_ordinal, self._next_ordinal + self._run.groups_per_batch)

    def _check(self, entry: Entry, group: ScoredGroup) -> None:
        """Raises MalformedRecordError for what decodes well and still must not be trained on."""
        run = self._run
        if group.ordinal != entry.ordinal:
            raise MalformedRecordError("ordinal", f"the entry says {entry.ordinal}, its group says {group.ordinal}")
        newest = max(self._version, self._announced)
        admitted = (run.max_staleness + newest + 1) * run.groups_per_batch
        if not 0 <= group.ordinal < admitted:
            raise MalformedRecordError(
                "ordinal",
                f"{group.ordinal} is not admitted yet at version {newest}, only ordinals below {admitted} are: "
                "collector and trainer must agree on run.groups_per_batch and run.max_staleness",
            )
        if len(group.trajectories) != run.samples_per_group:
            raise MalformedRecordError(
                "trajectories",
                f"expected run.samples_per_group = {run.samples_per_group}, got {len(group.trajectories)}",
            )
        trained_at = group.ordinal // run.groups_per_batch
        staleness = trained_at - group.oldest_version
        if staleness > run.max_staleness:
            raise MalformedRecordError(
                "staleness",
                f"sampled by version {group.oldest_version}, trained at version {trained_at}: {staleness} versions "
                f"behind, run.max_staleness is {run.max_staleness}",
            )
        for index, trajectory in enumerate(group.trajectories):
            self._check_trajectory(trajectory, group.prompt_token_ids, f"trajectories[{index}]")

    def _check_trajectory(self, trajectory: Trajectory, prompt_token_ids: np.ndarray, field: str) -> None:
        sampling = trajectory.sampling
        if sampling.temperature < LOWEST_TEMPERATURE:
            raise MalformedRecordError(
                f"{field}.sampling.temperature",
                f"{sampling.temperature:g} is greedy: there is no distribution to learn from; sample at "
                f"{LOWEST_TEMPERATURE:g} or more",
            )
        if sampling.truncated and trajectory.kept is None:
            raise MalformedRecordError(f"{field}.kept", NOT_TOLD)
        self._check_routing(trajectory, f"{field}.routed")
        if (length := max(map(len, trajectory.passages(prompt_token_ids)))) > self._context_length:
            raise MalformedRecordError(
                f"{field}.token_ids",
                f"prompt and response have {length} tokens, the model's context {self._context_length}",
            )

    def _check_routing(self, trajectory: Trajectory, field: str) -> None:
        if self._routing is None:
            return
        if trajectory.routed is None:
            raise MalformedRecordError(field, NO_ROUTES)
        if not trajectory.routed.fits(self._routing):
            raise MalformedRecordError(
                field, f"expected {self._routing}, as the policy routes, got {trajectory.routed}"
            )
