"""When a group came to each place on its way to the queue. For people: nothing is computed from it."""

from __future__ import annotations

from dataclasses import dataclass

from ais.contracts.limits import HIGHEST_VERSION, LATEST_TIME
from ais.contracts.malformed import refuse
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.runtime.text import printable
from ais.runtime.tracing.spans import is_traceparent


@dataclass(frozen=True)
class Journey:
    """Times are Unix times in seconds, by the collector's clock."""

    drawn: float
    """The ordinal was taken up; of a later attempt, when the first one was."""
    sent: float
    """This attempt was sent to its replica."""
    answered: float
    """The last of the trajectories had come back."""
    judged: float
    """All of them were judged."""
    admitted_version: int | None = None
    """The trainer's policy version that allowed the ordinal to be started; None: an earlier release does not say."""
    traceparent: str = ""
    """Names the group's span at the collector; empty where traces are off."""


TIMES = ("drawn", "sent", "answered", "judged")


def encode_journey(message: pb.ScoredGroup, journey: Journey | None) -> None:
    if journey is not None:
        times = {name: getattr(journey, name) for name in TIMES}
        message.journey.MergeFrom(pb.Journey(**times, admitted_version=journey.admitted_version))
        message.journey.traceparent = journey.traceparent


def decode_journey(message: pb.ScoredGroup) -> Journey | None:
    """None: an earlier release wrote the group. Raises MalformedRecordError."""
    if not message.HasField("journey"):
        return None
    told = message.journey
    for name in TIMES:
        if not 0.0 <= (time := getattr(told, name)) <= LATEST_TIME:  # NaN is not
            refuse(f"journey.{name}", f"expected Unix time from 0 to {LATEST_TIME:g} s, got {time:g}")
    admitted = told.admitted_version if told.HasField("admitted_version") else None
    if admitted is not None and admitted >= HIGHEST_VERSION:
        refuse("journey.admitted_version", f"expected a number below 2^53, got {admitted}")
    if told.traceparent and not is_traceparent(told.traceparent):
        refuse("journey.traceparent", f"expected a W3C traceparent, got {printable(told.traceparent, 100)}")
    return Journey(told.drawn, told.sent, told.answered, told.judged, admitted, told.traceparent)
