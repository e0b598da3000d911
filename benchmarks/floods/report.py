"""The table of the floods, as the terminal and the documents show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CALLS = {
    "sample": "sampling, lasting connection",
    "sample_anew": "sampling, new connection",
    "read_version": "a version",
    "scrape": "metrics",
}
"""What the client that behaves does, as the head of a column."""


def columns() -> tuple[str, ...]:
    return ("flood", *CALLS.values(), "failed of", "replica, MB", "shared, MB")


def row(name: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """The 99th percentile of each kind of call before and during a flood, in milliseconds, and peaks of memory."""
    calls = [figures[f"{name}_{kind}"] for kind in CALLS]
    latencies = [f"{1000 * one['reference']:.0f} / {1000 * one['value']:.0f}" for one in calls]
    failed = sum(one["failed"] for one in calls)
    asked = failed + sum(one["calls"] for one in calls)
    memory = [figures[f"{name}_{service}_memory"] for service in ("replica", "shared")]
    peaks = [f"{one['reference'] / 1e6:.0f} / {one['value'] / 1e6:.0f}" for one in memory]
    return (name, *latencies, f"{failed} of {asked}", *peaks)


def lines(names: list[str], figures: Mapping[str, Any]) -> list[str]:
    """The rows in Markdown."""
    return [f"| {' | '.join(row(name, figures))} |" for name in names]
