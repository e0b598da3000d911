"""Blocks of work of three kinds that take turns, and what they say: a busy machine is busy for all three."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import sqrt
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

from ais.runtime.tracing.batches import Batches
from ais.runtime.tracing.spans import trace_with
from benchmarks.support.report import Figure, figure
from benchmarks.support.traces import FULL, receiver

Kind = Literal["alone", "observed", "traced"]
KINDS: tuple[Kind, ...] = ("alone", "observed", "traced")
COST_LIMIT = 0.01
"""What is promised: being observed costs less than this share of the work."""
TRACED_LIMIT = 0.03
"""The same with traces."""
TIMED_CALLS = 1000


@dataclass(frozen=True)
class Moment:
    """Where the clocks stand."""

    processor: float
    """Seconds of this process, all threads."""
    wall: float
    parts: float
    """Processor seconds within what observes."""

    def since(self, begin: Moment) -> Moment:
        return Moment(self.processor - begin.processor, self.wall - begin.wall, self.parts - begin.parts)


@dataclass
class Turns:
    """Whose turn it is."""

    batches: Batches
    kind: Kind = "alone"
    _parts: list[float] = field(default_factory=list)
    _timing: float = field(default_factory=lambda: timing_seconds())

    def take(self, number: int) -> None:
        """The block of this number begins."""
        self.kind = kind_of(number)
        trace_with(self.batches.tracer if self.kind == "traced" else None)

    def now(self) -> Moment:
        """After what this kind has to send is sent: a block pays for its own spans."""
        if self.kind == "traced":
            self.batches.flush()
        parts = sum(self._parts) - self._timing * len(self._parts)
        return Moment(time.process_time(), time.perf_counter(), max(0.0, parts))

    def gated(self, real: Callable[..., Any], instead: Callable[..., Any], timed: bool) -> Callable[..., Any]:
        """`real` where somebody observes, else `instead`."""

        def either(*arguments: Any, **named: Any) -> Any:
            if self.kind == "alone":
                return instead(*arguments, **named)
            if not timed:
                return real(*arguments, **named)
            begin = time.thread_time()
            try:
                return real(*arguments, **named)
            finally:
                self._parts.append(time.thread_time() - begin)

        return either


def timing_seconds() -> float:
    """What the clock shows of a call that does nothing."""
    found = []
    for _call in range(TIMED_CALLS):
        begin = time.thread_time()
        found.append(time.thread_time() - begin)
    return median(found)


def kind_of(block: int) -> Kind:
    """Whose turn the block of this number is: the order is turned around from one round to the next."""
    turn, place = divmod(block, len(KINDS))
    return KINDS[place] if turn % 2 == 0 else KINDS[-1 - place]


@dataclass(frozen=True)
class Part:
    """A function that observes, and what stands in its place where nobody does."""

    owner: Any
    name: str
    instead: Callable[..., Any] = lambda *_arguments, **_named: None
    timed: bool = True
    """Whether its processor time is what it costs; not of one that has others do it."""


@contextmanager
def turns(parts: Sequence[Part]) -> Iterator[Turns]:
    """While it is open, `parts` work by turns, and spans go to a receiver that is another process."""
    with ExitStack() as stack:
        url = stack.enter_context(receiver())
        stack.enter_context(
            patch.dict(os.environ, {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_MAX_QUEUE_SIZE": FULL})
        )
        made = Turns(Batches("benchmark"))
        stack.callback(made.batches.close)
        stack.callback(trace_with, None)
        for part in parts:
            real = getattr(part.owner, part.name)
            stack.enter_context(patch.object(part.owner, part.name, made.gated(real, part.instead, part.timed)))
        yield made


def figures(name: str, work: str, rounds: Sequence[Mapping[Kind, Moment]]) -> dict[str, Figure]:
    """What `work` takes alone, and what being observed adds to it, as shares: medians over the rounds."""
    alone = [one["alone"] for one in rounds]
    seen = [moment for one in rounds for kind, moment in one.items() if kind != "alone"]
    found = {
        f"{name}_alone": figure(median(one.processor for one in alone), f"processor s of {work}"),
        f"{name}_parts_cost": middle([one.parts / one.processor for one in seen], COST_LIMIT),
    }
    for kind, limit in (("observed", COST_LIMIT), ("traced", TRACED_LIMIT)):
        for clock in ("processor", "wall"):
            costs = [getattr(one[kind], clock) / getattr(one["alone"], clock) - 1 for one in rounds]  # type: ignore[index]
            found[f"{name}_{kind}_{clock}_cost"] = middle(costs, limit)
    return found


def middle(values: Sequence[float], limit: float) -> Figure:
    """The median of shares, and an interval that has it in 95 of 100 cases, by the ranks of the values alone."""
    ordered = sorted(values)
    rank = max(0, int(len(ordered) / 2 - 0.98 * sqrt(len(ordered))))
    return figure(median(ordered), "share", limit) | {"low": ordered[rank], "high": ordered[-1 - rank]}


def lines_of(figures: Mapping[str, Figure]) -> Iterator[tuple[str, str]]:
    """The figures as a table shows them."""
    for name, one in figures.items():
        value = float(one["value"] or 0.0)
        if "low" in one:
            yield name, f"{value:.2%} ({float(one['low'] or 0.0):.2%} to {float(one['high'] or 0.0):.2%})"
        else:
            yield name, f"{value:.2%}" if name.endswith("cost") else f"{value:.4f} {one['unit']}"
