"""What a replica was asked, and whether its answers are answers to that. Pure."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property

from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import MalformedRecordError, Trajectory
from ais.runtime.text import printable


@dataclass(frozen=True)
class Question:
    """`samples` responses to one prompt, sampled with `sampling`."""

    group_id: str
    samples: int
    sampling: SamplingParameters

    @cached_property
    def _sampling(self) -> SamplingParameters:
        """As it comes back: the wire rounds to float32."""
        return SamplingParameters.from_proto(self.sampling.to_proto())

    def check(self, answer: Trajectory, received: Container[int]) -> None:
        """Raises MalformedRecordError for what was not asked for. `received`: sample indices that have come already.

        Responses are no more than `samples` therefore, however many a replica sends.
        """
        _expect("group_id", answer.group_id, self.group_id)
        if answer.sample_index >= self.samples:
            _refuse("sample_index", f"expected 0 to {self.samples - 1}, got {answer.sample_index}")
        if answer.sample_index in received:
            _refuse("sample_index", f"{answer.sample_index} came twice")
        _expect("trajectory_id", answer.trajectory_id, f"{self.group_id}/{answer.sample_index}")
        if len(answer.token_ids) > (longest := self.sampling.max_new_tokens):
            _refuse("token_ids", f"expected up to max_new_tokens = {longest}, got {len(answer.token_ids)}")
        if answer.sampling != self._sampling:
            for name in SamplingParameters.model_fields:
                _expect(f"sampling.{name}", getattr(answer.sampling, name), getattr(self._sampling, name))


def _expect(field: str, got: object, asked: object) -> None:
    if got != asked:
        _refuse(field, f"asked for {printable(str(asked), 100)}, got {printable(str(got), 100)}")


def _refuse(field: str, reason: str) -> None:
    raise MalformedRecordError(f"trajectory.{field}", reason)
