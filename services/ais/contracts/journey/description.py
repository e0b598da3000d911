"""What is told of one group: who sampled it and when it came where, as plain values for a line of JSON."""

from __future__ import annotations

from typing import Any

from ais.contracts.trajectory import ScoredGroup

TIMES = ("drawn", "sent", "first_token", "last_token", "answered", "judged")
"""In the order of the way. Unix times in seconds by the collector's clock."""


def described(group: ScoredGroup, entry_id: str) -> dict[str, Any]:
    """`entry_id`: of the queue. `groups.jsonl` has what each key means."""
    trajectories = group.trajectories
    return {
        "group_id": group.group_id,
        "ordinal": group.ordinal,
        "attempt": group.attempt,
        "redraw": group.redraw,
        "entry_id": entry_id,
        "prompt_id": group.prompt_id,
        "replicas": sorted({one.replica_id for one in trajectories}),
        "tokens": sum(len(one.token_ids) for one in trajectories),
        "admitted_version": group.journey.admitted_version if group.journey else None,
        "versions": [group.oldest_version, max(span.version for one in trajectories for span in one.spans)],
        **_times(group),
    }


def _times(group: ScoredGroup) -> dict[str, float | None]:
    times: dict[str, float | None] = dict.fromkeys(TIMES)
    if (journey := group.journey) is None:
        return times
    if not any(one.turns for one in group.trajectories):
        times["first_token"] = journey.sent + min(one.first_token_seconds for one in group.trajectories)
        times["last_token"] = journey.sent + max(one.total_seconds for one in group.trajectories)
    return times | {
        "drawn": journey.drawn,
        "sent": journey.sent,
        "answered": journey.answered,
        "judged": journey.judged,
    }
