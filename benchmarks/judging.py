"""What verifier workers get done: judgements a second of each kind that runs in worker processes.

    ais bench judging                      # 4 workers, as many responses as `--responses` for each verifier
    ais bench judging --workers 2 --responses 500

Each judgement is a round trip: a response to a worker, its scores back. `function` is one that does nothing, so its
figure is the price of the way. Every eighth response of `hanging` hangs until `--seconds`, and costs its worker; of
`catastrophe` it takes a pattern hours. How late the event loop was meanwhile is the mean of what the collector shows as
`ais_collector_loop_lag_seconds`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from ais.collector.judging.pool import JudgePool
from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.response import Response
from ais.collector.settings import JudgingSettings
from ais.collector.settings.rewards import Component
from ais.runtime.lag import PERIOD_SECONDS, watch_loop_lag
from ais.runtime.tasks import end_tasks
from benchmarks.support.report import Figure, figure, publish

FUNCTIONS = """
import time

def nothing(response, answer, metadata, finish_reason):
    return 1.0

def hanging(response, answer, metadata, finish_reason):
    if int(response) % 8 == 0:
        time.sleep(1000)
    return 1.0
"""


CATASTROPHE = r"0(a+)+\$"
"""Takes 2^60 steps on sixty letters a, where a 0 stands before them."""
STOPPED = ("hanging", "catastrophe")
"""Cases in which every eighth judgement takes its time limit."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4, help="worker processes")
    parser.add_argument("--responses", type=int, default=2000, help="responses judged by each verifier")
    parser.add_argument(
        "--hanging", type=int, default=64, help="responses of which every eighth is stopped, where some are"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="a judgement's time limit where responses hang")
    arguments = parser.parse_args()
    table = Table("verifier", "responses", "judgements a second", "loop late by")
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "bench_functions.py").write_text(FUNCTIONS, encoding="utf-8")
        for name, component, text in _cases(directory):
            count, limit = (arguments.hanging, arguments.seconds) if name in STOPPED else (arguments.responses, 60.0)
            settings = JudgingSettings(workers=arguments.workers, seconds=limit)
            rate, late = asyncio.run(_rate(component, settings, [text(number) for number in range(count)]))
            table.add_row(name, f"{count:,}", f"{rate:,.0f}", f"{1e3 * late:.1f} ms")
            figures[f"{name}_{arguments.workers}_workers"] = figure(rate, "judgements/s")
            figures[f"{name}_{arguments.workers}_workers_loop_lag"] = figure(1e3 * late, "ms")
    Console(file=sys.stderr).print(table)
    publish("judging", figures)


def _cases(directory: str) -> list[tuple[str, Component, Callable[[int], str]]]:
    def component(verifier: str, **settings: object) -> Component:
        read: Component = TypeAdapter(Component).validate_python({"verifier": verifier, **settings})
        return read

    def function(name: str) -> Component:
        return component("function", function=f"bench_functions:{name}", directory=directory)

    return [
        ("function", function("nothing"), str),
        ("pattern", component("regular_expression", pattern=r"####\s*(\S+)"), "#### {}".format),
        ("math_verify", component("math_verify"), r"So \boxed{{\frac{{{}}}{{7}}}}.".format),
        ("json_schema", component("json_schema", json_schema={"type": "object"}), '{{"n": {}}}'.format),
        ("hanging", function("hanging"), str),
        ("catastrophe", component("regular_expression", pattern=CATASTROPHE), lambda n: f"{n % 8}{'a' * 60}b"),
    ]


async def _rate(component: Component, settings: JudgingSettings, texts: list[str]) -> tuple[float, float]:
    """Judgements a second, after each worker has judged once; mean seconds by which the event loop was late."""
    place, prompt = ("", 0), Prompt("p", "q", "42")
    registry = CollectorRegistry()
    watch = watch_loop_lag(Histogram("lag", "As the collector's.", registry=registry))
    async with JudgePool({place: (component, ())}, settings) as pool:
        await asyncio.gather(*(pool.judge(place, prompt, Response("1")) for _ in range(settings.workers)))
        watching = asyncio.create_task(watch)
        await asyncio.sleep(PERIOD_SECONDS)
        began = time.monotonic()
        await asyncio.gather(*(pool.judge(place, prompt, Response(text)) for text in texts))
        rate = len(texts) / (time.monotonic() - began)
        await asyncio.sleep(PERIOD_SECONDS)
        await end_tasks(watching)
    late, times = (registry.get_sample_value(name) or 0.0 for name in ("lag_sum", "lag_count"))
    return rate, late / max(1.0, times)


if __name__ == "__main__":
    main()
