"""The span of an optimizer step, and the ends of its groups' traces, which began with a prompt at the collector.

A step has many groups, so it is a trace of its own, with a link to each group's; each of theirs has a link to it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ais.runtime.tracing.spans import Span, is_on, record, span
from ais.trainer.groups.intake import Buffered


@contextmanager
def step_span(batch: Sequence[Buffered], version: int) -> Iterator[Span]:
    """Around the step that makes `version` of `batch`; a step that fails ends no group's trace."""
    if not is_on():
        yield Span()
        return
    taken = time.time()
    traced = [(item, item.group.journey.traceparent) for item in batch if item.group.journey is not None]
    with span("step", links=[group for _item, group in traced], version=version, groups=len(batch)) as step:
        yield step
    trained = time.time()
    for item, group in traced:
        waited = taken - (_published(item.entry.entry_id) or taken)
        record("train", taken, trained, group, links=[step.traceparent], version=version, queued_seconds=waited)


def _published(entry_id: str) -> float | None:
    """Unix time in seconds, by the Redis server's clock."""
    begin = entry_id.partition("-")[0]
    return int(begin) / 1000 if begin.isdecimal() else None
