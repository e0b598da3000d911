"""What happened in a run, told from its records: warnings, and steps that are unlike others. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Event = dict[str, Any]


def of_warning(record: Mapping[str, Any]) -> Event:
    """A line of warnings.jsonl. Raises KeyError for what is none."""
    return _event(record, record["version"], str(record["kind"]).replace("_", " "), str(record["message"]), "warning")


def of_step(record: Mapping[str, Any], before: Mapping[str, Any] | None) -> Iterator[Event]:
    """What is to be told of a step, whose predecessor is `before`."""
    step = record.get("step")
    if before is not None and record.get("incarnation") != before.get("incarnation"):
        yield _event(record, step, "resumed", f"trainer {record.get('incarnation')} goes on", "note")
    if before is not None and record.get("replicas") != before.get("replicas"):
        yield _event(record, step, "fleet", f"{before.get('replicas')} to {record.get('replicas')} replicas", "note")
    # Nothing measured is not trusted either: then what was not finite is the reason.
    if record.get("trusted") is False and record.get("log_ratio_abs_mean") is not None:
        message = "the batch was not trained: its mismatch with the policy is too large to mean anything"
        yield _event(record, step, "not trusted", message, "warning")
    elif record.get("skipped_updates"):
        message = f"{record['skipped_updates']} updates were left out: a loss or a gradient was not finite"
        yield _event(record, step, "update skipped", message, "warning")


def _event(record: Mapping[str, Any], step: Any, kind: str, message: str, level: str) -> Event:
    return {"time": record.get("time"), "step": step, "kind": kind, "message": message, "level": level}
