"""What a group's rewards are made of, as it crosses the wire: named scores, and why a response has none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ais.contracts.limits import LARGEST_REWARD
from ais.contracts.malformed import check_name, refuse
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.runtime.text import printable

MOST_COMPONENTS = 512
"""Named parts of one group's rewards."""
LONGEST_FAILURE = 500
"""Characters of the reason why a response could not be judged."""
_COUNT_OF_THE_REST = 40
"""Characters that `printable` may add to say how much it has left out."""


@dataclass(frozen=True)
class JudgementFailure:
    """Response `index` of a group could not be judged: `outcome` is one word for the reason, `text` all of them."""

    index: int
    outcome: str
    text: str


@dataclass(frozen=True)
class RewardComponent:
    """One named part of a group's rewards: a reward is the sum over all components of weight times score."""

    name: str
    weight: float
    scores: tuple[float, ...]
    """One a trajectory, 0 where it could not be judged."""
    failures: tuple[JudgementFailure, ...] = ()


def encode_components(message: pb.ScoredGroup, components: Iterable[RewardComponent]) -> None:
    """Adds the components to a group's message."""
    for component in components:
        part = message.components.add(name=component.name, weight=component.weight, scores=component.scores)
        for failure in component.failures:
            text = printable(failure.text, LONGEST_FAILURE - _COUNT_OF_THE_REST)
            part.failures.add(index=failure.index, outcome=failure.outcome, text=text)


def decode_components(message: pb.ScoredGroup) -> tuple[RewardComponent, ...]:
    """Raises MalformedRecordError; none in entries of an earlier release."""
    if len(message.components) > MOST_COMPONENTS:
        refuse("components", f"expected up to {MOST_COMPONENTS}, got {len(message.components)}")
    return tuple(
        _decode(component, len(message.trajectories), f"components[{index}]")
        for index, component in enumerate(message.components)
    )


def _decode(component: pb.RewardComponent, trajectories: int, field: str) -> RewardComponent:
    check_name(component.name, field)
    if len(component.scores) != trajectories:
        refuse(f"{field}.scores", f"expected one for each of {trajectories} trajectories, got {len(component.scores)}")
    if not all(abs(number) <= LARGEST_REWARD for number in (component.weight, *component.scores)):  # NaN is not
        refuse(f"{field}.scores", f"expected scores and a weight within +-{LARGEST_REWARD:g}")
    for failure in component.failures:
        if failure.index >= trajectories:
            refuse(f"{field}.failures", f"expected an index below {trajectories}, got {failure.index}")
        check_name(failure.outcome, f"{field}.failures")
        if len(failure.text) > LONGEST_FAILURE:
            refuse(f"{field}.failures", f"expected up to {LONGEST_FAILURE} characters, got {len(failure.text)}")
    return RewardComponent(
        name=component.name,
        weight=component.weight,
        scores=tuple(component.scores),
        failures=tuple(JudgementFailure(one.index, one.outcome, one.text) for one in component.failures),
    )
