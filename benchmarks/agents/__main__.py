"""Programs that play episodes by OpenAI's API, many at once: what a turn costs the endpoint, and what memory it takes.

    ais bench agents                                     # 10,000 episodes of 8 turns, 256 at once
    ais bench agents --episodes 256 --concurrent 64
    ais bench agents --stream --record agents_streamed   # every answer asked for as a stream

The policy is replayed: what it answers is drawn beforehand, and it takes `--answer-seconds` for it. So what is counted
is the endpoint's process alone: HTTP, the chat template, tokens, the record. Each episode's record is compared with
what was said and answered, token for token; one that differs or does not end is lost. Drawing episodes and comparing
them is not counted. Programs are in this process, with a connection each. The reference is a bare FastAPI handler that
parses and answers the same bodies.

It also computes what prompt tokens are saved by having all turns of a group on one replica, from the same episodes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.agents.episodes import Shape
from benchmarks.agents.prefill import prefill
from benchmarks.agents.programs import Played, play
from benchmarks.agents.server import Asked
from benchmarks.support.report import Figure, figure, publish

REPLICAS = (2, 4, 8)
SAMPLES = 8
"""Episodes of a group, where prompt tokens are counted."""
GROUPS = 64


def figures_of(asked: Asked, ours: Played, bare: Played) -> dict[str, Figure]:
    cost, reference = (1e3 * one.processor_seconds / one.turns for one in (ours, bare))
    figures = {
        "processor_time_of_a_turn": figure(cost, "ms", reference),
        "lost": figure(ours.lost, "episodes"),
        "episodes": figure(asked.episodes, "episodes"),
        "turns_a_second": figure(ours.turns / ours.wall_seconds, "turns/s", bare.turns / bare.wall_seconds),
        "repeated": figure(ours.repeated, "calls"),
    }
    for share in (50, 99):
        beyond, reference = (
            1e3 * (float(np.percentile(one.latencies, share)) - asked.answer_seconds) for one in (ours, bare)
        )
        figures[f"latency_{share}"] = figure(beyond, "ms", reference)
        if ours.first:
            figures[f"first_text_{share}"] = figure(1e3 * float(np.percentile(ours.first, share)), "ms")
    first = min(ours.resident.values())
    for done, resident in ours.resident.items():
        figures[f"memory_after_{done}"] = figure(resident / 2**20, "MiB", first / 2**20)
    for replicas in REPLICAS:
        counted = prefill(asked.shape, replicas, GROUPS, SAMPLES)
        figures[f"prefill_saved_{replicas}_replicas"] = figure(100 * counted.saved, "%") | {
            "by_group": counted.by_group,
            "at_random": counted.at_random,
            "uncached": counted.uncached,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--concurrent", type=int, default=256, help="episodes at once")
    parser.add_argument("--turns", type=int, default=8, help="of an episode")
    parser.add_argument("--answer-seconds", type=float, default=1.0, help="what the policy takes for a turn")
    parser.add_argument("--stream", action="store_true", help="ask for answers as streams")
    parser.add_argument("--record", default="agents", help="name of the file in benchmarks/results")
    parser.add_argument("--reference-episodes", type=int, default=1_000, help="that the bare handler answers")
    arguments = parser.parse_args()
    marks = tuple(sorted({max(1, arguments.episodes * part // 10) for part in (1, 5, 10)}))
    shape = Shape(turns=arguments.turns)
    asked = Asked(
        shape, arguments.episodes, arguments.concurrent, arguments.answer_seconds, marks, False, arguments.stream
    )
    few = min(arguments.reference_episodes, asked.episodes)
    bare = asyncio.run(play(replace(asked, episodes=few, bare=True, stream=False)))
    ours = asyncio.run(play(asked))
    figures = figures_of(asked, ours, bare)
    table = Table("", "value", "reference")
    for name, one in figures.items():
        reference = "" if one["reference"] is None else f"{one['reference']:,.2f}"
        table.add_row(name, f"{one['value']:,.2f} {one['unit']}", reference)
    Console(file=sys.stderr).print(table)
    publish(
        "agents", figures, f"{asked.concurrent} at once, {asked.answer_seconds:g} s an answer", file=arguments.record
    )
    if ours.lost:
        sys.exit(1)


if __name__ == "__main__":
    main()
