"""A group's way as the places it came to, and what it waited for between two of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ais.tracing.records import Step

LEGS: Mapping[str, str] = {
    "drawn": "waited for a replica",
    "sent": "went by until this attempt was sent",
    "first token": "waited in the replica, and its prompt was read",
    "last token": "was sampled",
    "answered": "went by until all of it was back",
    "judged": "was judged",
    "queued": "was put into the queue",
    "batch complete": "waited for the rest of its batch",
    "taken": "waited for the trainer",
    "trained": "was trained",
}
"""The places in order, each with what is done in the time before it."""


@dataclass(frozen=True)
class Station:
    """A place that a group came to."""

    place: str
    """`admitted`, or one of `LEGS`."""
    time: float
    """Unix time, seconds. `admitted`, `taken` and `trained` are told by the trainer's clock, `queued` and `batch
    complete` by the Redis server's, the others by the collector's."""
    seconds: float | None
    """Since the place before; None at the first one. Negative where two machines' clocks differ by more than that."""
    note: str = ""

    @property
    def leg(self) -> str:
        """What took these seconds."""
        return LEGS.get(self.place, "")


def stations_of(
    group: Mapping[str, Any], batch: Sequence[Mapping[str, Any]], step: Step | None, admitted: Step | None
) -> list[Station]:
    """The places whose time is known, in order.

    `group`: its line of `groups.jsonl`, or what is known of it; `batch`: the lines of its whole batch, if there are
    any. `step`: what trained it. `admitted`: the step whose version allowed the ordinal to be started.
    """
    replicas = ", ".join(group.get("replicas") or ())
    attempt = int(group.get("attempt") or 1)
    published = published_at(group)
    found: list[tuple[str, float | None, str]] = [
        (
            "admitted",
            admitted.time if admitted else None,
            f"the trainer had version {admitted.version}" if admitted else "",
        ),
        ("drawn", group.get("drawn"), ""),
        ("sent", group.get("sent"), f"to {replicas}, attempt {attempt}"),
        ("first token", group.get("first_token"), ""),
        ("last token", group.get("last_token"), f"{group.get('tokens')} tokens in all"),
        ("answered", group.get("answered"), ""),
        ("judged", group.get("judged"), ""),
        ("queued", published, f"entry {group.get('entry_id')}"),
    ]
    last = max(batch, key=lambda one: published_at(one) or 0.0, default=None)
    if last is not None and published is not None and step is not None and len(batch) == len(step.ordinals):
        with_whom = "by this group" if last["group_id"] == group["group_id"] else f"by {last['group_id']}"
        found.append(("batch complete", published_at(last), with_whom))
    if step is not None:
        found.append(("taken", step.taken, f"by trainer {step.incarnation}"))
        found.append(("trained", step.time, f"in step {step.version}: {_phases(step)}"))
    return _timed(found)


def published_at(group: Mapping[str, Any]) -> float | None:
    """When it was put into the queue, Unix time in seconds by the server's clock."""
    begin = str(group.get("entry_id") or "").partition("-")[0]
    return int(begin) / 1000 if begin.isdigit() else None


def longest(stations: Sequence[Station]) -> Station | None:
    """The station before which most time went."""
    return max((one for one in stations if one.seconds is not None), key=lambda one: one.seconds or 0.0, default=None)


def _phases(step: Step) -> str:
    phases = {name: seconds for name, seconds in step.phase_seconds.items() if name != "wait" and seconds > 0}
    ordered = sorted(phases.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {seconds:.3f} s" for name, seconds in ordered[:3])


def _timed(found: Sequence[tuple[str, float | None, str]]) -> list[Station]:
    stations: list[Station] = []
    for place, time, note in found:
        if time is not None:
            stations.append(Station(place, time, time - stations[-1].time if stations else None, note))
    return stations
