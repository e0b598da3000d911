"""A trace for a person, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ais.runtime.text import printable
from ais.tracing.log_lines import LogLine
from ais.tracing.search import Trace
from ais.tracing.stations import Station, longest

LONGEST_NOTE = 200
"""Characters of a note."""
LONGEST_LOG_LINE = 1_000
"""Characters of a log line that a person is shown."""


def as_json(trace: Trace) -> dict[str, Any]:
    """Plain values. Times are Unix times, seconds."""
    return asdict(trace) | {
        "stations": [asdict(one) | {"leg": one.leg} for one in trace.stations],
        "step": None if trace.step is None else _step(trace),
    }


def as_text(trace: Trace) -> Iterator[str]:
    """Lines. What a peer has written is escaped in them."""
    name = trace.group_id or f"ordinal {trace.ordinal}"
    yield printable(f"{name} of run {trace.run}: {trace.summary}", LONGEST_LOG_LINE)
    if prompt := trace.group.get("prompt_id"):
        first, last = trace.group["versions"]
        sampled = f"version {first}" if first == last else f"versions {first} to {last}"
        yield printable(
            f"prompt {prompt}, ordinal {trace.ordinal} of batch {trace.batch}; {trace.group['tokens']} tokens sampled "
            f"by {sampled} on {', '.join(trace.group['replicas'])}",
            LONGEST_LOG_LINE,
        )
    if trace.stations:
        yield ""
        yield from (_line(one) for one in trace.stations)
        yield from _total(trace)
    if trace.state == "trained" and "sent" not in trace.group:
        yield "when it was sampled is not known: groups.jsonl has the newest groups alone, and none of earlier releases"
    if trace.logs:
        yield ""
        yield "log lines:"
        yield from (line for one in trace.logs for line in _logged(one))


def _logged(record: LogLine) -> Iterator[str]:
    first, *others = record.text.split("\n")
    yield printable(f"  {record.process}: {first}", LONGEST_LOG_LINE)
    yield from (printable(f"    {line}", LONGEST_LOG_LINE) for line in others)


def _line(station: Station) -> str:
    when = datetime.fromtimestamp(station.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    since = " " * 11 if station.seconds is None else f"{station.seconds:+10.3f}s"
    text = " ".join(filter(None, (station.leg if station.seconds is not None else "", _in_brackets(station.note))))
    return f"  {station.place:14} {when} {since}  {text}".rstrip()


def _in_brackets(note: str) -> str:
    return f"({printable(note, LONGEST_NOTE)})" if note else ""


def _total(trace: Trace) -> Iterator[str]:
    slowest = longest(trace.stations)
    total = trace.stations[-1].time - trace.stations[0].time
    if slowest is None or not slowest.seconds or total <= 0:
        return
    yield f"  {total:.3f} s in all; most of it, {slowest.seconds:.3f} s: {slowest.leg}"


def _step(trace: Trace) -> dict[str, Any]:
    assert trace.step is not None
    step = asdict(trace.step)
    del step["ordinals"], step["group_ids"]
    return step | {"taken": trace.step.taken}
