"""The table of the floods, as the terminal and the documents show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CALLS = {
    "sample": "sampling, lasting connection",
    "sample_anew": "sampling, new connection",
    "read_version": "a version",
    "scrape": "metrics",
}
"""What the client that behaves does, as the head of a column."""


def columns() -> tuple[str, ...]:
    return ("flood", *CALLS.values(), "calls that failed", "replica, MB", "shared, MB", "connections ended, median")


def row(name: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Before the flood / during it: the 99th percentile of each kind of call in milliseconds, calls that failed or came
    too late, and peaks of memory. Then how the service ended the flood's connections, and after how long."""
    calls = [figures[f"{name}_{kind}"] for kind in CALLS]
    latencies = [f"{1000 * one['reference']:.0f} / {1000 * one['value']:.0f}" for one in calls]
    memory = [figures[f"{name}_{service}_memory"] for service in ("replica", "shared")]
    peaks = [f"{one['reference'] / 1e6:.0f} / {one['value'] / 1e6:.0f}" for one in memory]
    ended = figures[f"{name}_ended"]
    told = f"{ended['answers']}; {ended['median_seconds']:.2f} s"
    return (name, *latencies, f"{_failed(calls, '_before')} / {_failed(calls, '')}", *peaks, told)


def _failed(calls: Sequence[Any], when: str) -> str:
    failed = sum(one[f"failed{when}"] for one in calls)
    return f"{failed} of {failed + sum(one[f'calls{when}'] for one in calls)}"


def lines(names: Iterable[str], figures: Mapping[str, Any]) -> list[str]:
    """The table in Markdown."""
    head = columns()
    rows = [head, ("---",) * len(head), *(row(name, figures) for name in names)]
    return [f"| {' | '.join(one)} |" for one in rows]
