"""What traces cost: processor time of the spans that a group and a step have, sending them included.

Each service's spans are opened as the service opens them, as fast as they go, with traces off and on in turns, and are
sent to a receiver that is another process. Off is what a run pays that does not trace.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from ais.contracts.journey.times import Journey
from ais.contracts.queue import Entry
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import ScoredGroup
from ais.contracts.v1 import rollout_pb2
from ais.rollout.engine import Completion
from ais.rollout.sampling_span import sampling_span
from ais.runtime.tracing.exporter import traces
from ais.runtime.tracing.spans import TRACEPARENT, carried, current_traceparent, span
from ais.trainer.groups.intake import Buffered
from ais.trainer.groups.step_span import step_span
from benchmarks.support.report import Figure, spread

GROUPS, SAMPLES = 32, 8
"""Groups of a step and responses of a group, as in the demo."""
STEPS_A_ROUND = 20
FULL = "1000000"
"""Spans that may wait: none is dropped, so that all of them are paid for."""
CALLER = f"00-{'a1' * 16}-{'b2' * 8}-01"
RECEIVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


class _Call:
    """What a replica reads of a call."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ((TRACEPARENT, CALLER),)


def trace_figures(rounds: int) -> dict[str, Figure]:
    """Microseconds of processor time, medians over the rounds; a round alternates off and on."""
    found: dict[str, list[float]] = {}
    parts: dict[str, tuple[Callable[[int], object], str]] = {
        "collector": (_collector, "a group"),
        "replica": (_replica, "a group"),
        "trainer": (_trainer, "a step"),
    }
    units: dict[str, str] = {}
    with receiver() as url:
        for number in range(rounds):
            for on in (False, True) if number % 2 == 0 else (True, False):
                for service, (step, each) in parts.items():
                    per_step = _seconds(step, url if on else "") / (1 if each == "a step" else GROUPS)
                    name = f"traces_{service}_{'on' if on else 'off'}"
                    found.setdefault(name, []).append(per_step * 1e6)
                    units[name] = f"us of processor time {each}"
    return {name: spread(values, units[name]) for name, values in sorted(found.items())}


def _seconds(step: Callable[[int], object], endpoint: str) -> float:
    """Processor seconds of a step in this process, the thread that sends included."""
    os.environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_MAX_QUEUE_SIZE": FULL}
    with traces("benchmark"):
        step(0)  # what is imported and connected once
        begin = time.process_time()
        for number in range(STEPS_A_ROUND):
            step(number)
    return (time.process_time() - begin) / STEPS_A_ROUND  # after the last span is sent


def _collector(number: int) -> None:
    for ordinal in range(GROUPS):
        name = f"demo-{number * GROUPS + ordinal}-1"
        facts = {"group": name, "ordinal": ordinal, "attempt": 1, "replica": "replica-0", "admitted_version": number}
        with span("group", **cast(Any, facts)) as whole:
            with span("generate", "client", group=name, samples=SAMPLES, prompt_tokens=18):
                carried()
            with span("judge", responses=SAMPLES):
                pass
            current_traceparent()
            with span("publish", "producer"):
                pass
            whole.tell(outcome="published")


def _replica(number: int) -> None:
    one = Completion(0, np.zeros(17, np.int32), np.zeros(17, np.float32), (), FinishReason.STOP, 0.1, 0.2, 0.05)
    for ordinal in range(GROUPS):
        request = rollout_pb2.GenerateRequest(group_id=f"demo-{number * GROUPS + ordinal}-1", samples=SAMPLES)
        with sampling_span(request, cast(Any, _Call())) as call:
            for _ in range(SAMPLES):
                call.takes(one)


def _trainer(number: int) -> None:
    journey = Journey(1.0, 2.0, 3.0, 4.0, number, CALLER)
    group = ScoredGroup("demo-3-1", 3, "3", np.zeros(1, np.int32), (), (), "demo", 1, journey=journey)
    batch = [Buffered(Entry("1764000000000-0", ordinal, b""), group) for ordinal in range(GROUPS)]
    with step_span(batch, number) as step:
        step.tell(wait_seconds=0.1, forward_backward_seconds=0.1, optimizer_seconds=0.1)
    with span("push weights", "client", step.traceparent, replica="replica-0", version=number) as pushing:
        pushing.tell(encoding="delta", bytes=1000)
        carried()


@contextmanager
def receiver() -> Iterator[str]:
    """The address of a process that takes spans and looks at none."""
    process = subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
