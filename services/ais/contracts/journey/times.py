"""When a group came to each place on its way to the queue. For people: nothing is computed from it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from ais.contracts.limits import LATEST_TIME
from ais.contracts.malformed import refuse
from ais.contracts.v1 import trajectory_pb2 as pb


@dataclass(frozen=True)
class Journey:
    """Unix times in seconds, by the collector's clock."""

    drawn: float
    """The ordinal was taken up; of a later attempt, when the first one was."""
    sent: float
    """This attempt was sent to its replica."""
    answered: float
    """The last of the trajectories had come back."""
    judged: float
    """All of them were judged."""


def encode_journey(message: pb.ScoredGroup, journey: Journey | None) -> None:
    if journey is not None:
        drawn, sent, answered, judged = astuple(journey)
        message.journey.MergeFrom(pb.Journey(drawn=drawn, sent=sent, answered=answered, judged=judged))


def decode_journey(message: pb.ScoredGroup) -> Journey | None:
    """None: an earlier release wrote the group. Raises MalformedRecordError."""
    if not message.HasField("journey"):
        return None
    for field in fields(Journey):
        if not 0.0 <= (time := getattr(message.journey, field.name)) <= LATEST_TIME:  # NaN is not
            refuse(f"journey.{field.name}", f"expected Unix time from 0 to {LATEST_TIME:g} s, got {time:g}")
    told = message.journey
    return Journey(told.drawn, told.sent, told.answered, told.judged)
