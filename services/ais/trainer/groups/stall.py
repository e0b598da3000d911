"""Says what a trainer waits for when no batch comes. Pure: what is known goes in, words come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NAMED = 5
"""Ordinals and versions that a message names; the rest is counted."""


@dataclass(frozen=True)
class Wait:
    """What is known while the next batch is waited for."""

    seconds: float
    missing: Sequence[int]
    """Ordinals of the batch whose groups have not come."""
    lost: Sequence[int]
    """Ordinals that counted as published and whose groups the queue no longer had; the collector has been told."""
    needed_version: int
    """Oldest version that may sample the batch."""
    serving: Sequence[int]
    """Version of each live replica that takes work."""
    starting: int
    """Live replicas that take no work, because they load or leave."""


def explanation(wait: Wait) -> str:
    """One sentence: since when, for what, and the likely reason."""
    groups = _listed(wait.missing, "group")
    return f"no batch for {wait.seconds:.0f} s: {groups} not come. {_reason(wait)}"


def _reason(wait: Wait) -> str:
    if wait.lost:
        return (
            f"The queue has lost {_listed(wait.lost, 'group', verb='')}: somebody deleted or trimmed its entries, or "
            "Redis evicts keys. The collector samples them again. Set maxmemory-policy noeviction"
        )
    if not wait.serving:
        if wait.starting:
            return f"{wait.starting} replicas are there and none takes work yet: their logs and /readyz say why"
        return "No replica is registered: start one (ais rollout), and look at the logs of those that have ended"
    if max(wait.serving) < wait.needed_version:
        return (
            f"No replica serves version {wait.needed_version} or a newer one, which the batch needs "
            f"(run.max_staleness); they serve {', '.join(map(str, sorted(set(wait.serving))[-NAMED:]))}. The log says "
            "why an upload fails or is refused"
        )
    return (
        f"{len(wait.serving)} replicas take work: the collector does not run, or its groups come to nothing or take "
        "long; its log says which"
    )


def _listed(ordinals: Sequence[int], noun: str, verb: str = " has") -> str:
    shown = ", ".join(map(str, ordinals[:NAMED])) + (", ..." if len(ordinals) > NAMED else "")
    if len(ordinals) == 1:
        return f"{noun} {shown}{verb}"
    return f"{len(ordinals)} {noun}s ({shown}){' have' if verb else ''}"
