"""What verifier workers get done: judgements a second of each kind that runs in worker processes.

    ais bench judging                      # 4 workers, as many responses as `--responses` for each verifier
    ais bench judging --workers 2 --responses 500

Each judgement is a round trip: a response to a worker, its scores back. `function` is one that does nothing, so its
figure is the price of the way. Every eighth response of `hanging` hangs until `--seconds`, and costs its worker.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from ais.collector.judging.pool import JudgePool
from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.response import Response
from ais.collector.settings import JudgingSettings
from ais.collector.settings.rewards import Component
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4, help="worker processes")
    parser.add_argument("--responses", type=int, default=2000, help="responses judged by each verifier")
    parser.add_argument("--hanging", type=int, default=64, help="responses of which every eighth hangs")
    parser.add_argument("--seconds", type=float, default=1.0, help="a judgement's time limit where responses hang")
    arguments = parser.parse_args()
    table = Table("verifier", "responses", "judgements a second")
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "bench_functions.py").write_text(FUNCTIONS, encoding="utf-8")
        for name, component, text in _cases(directory):
            count = arguments.hanging if name == "hanging" else arguments.responses
            limit = arguments.seconds if name == "hanging" else 60.0
            settings = JudgingSettings(workers=arguments.workers, seconds=limit)
            rate = asyncio.run(_rate(component, settings, [text(number) for number in range(count)]))
            table.add_row(name, f"{count:,}", f"{rate:,.0f}")
            figures[f"{name}_{arguments.workers}_workers"] = figure(rate, "judgements/s")
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
    ]


async def _rate(component: Component, settings: JudgingSettings, texts: list[str]) -> float:
    """Judgements a second, after each worker has judged once."""
    place, prompt = ("", 0), Prompt("p", "q", "42")
    async with JudgePool({place: (component, ())}, settings) as pool:
        await asyncio.gather(*(pool.judge(place, prompt, Response("1")) for _ in range(settings.workers)))
        began = time.monotonic()
        await asyncio.gather(*(pool.judge(place, prompt, Response(text)) for text in texts))
        return len(texts) / (time.monotonic() - began)


if __name__ == "__main__":
    main()
