"""What it costs a trainer: distributions of a batch, records, samples, groups, metrics, signs, codes, scrapes, traces.

The three diagnostics stay, whoever looks: the algorithm decides by them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from prometheus_client import CollectorRegistry

from ais.runtime.metrics.registry import service_registry
from ais.trainer.announcer import Announcer
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.spread import Spread
from ais.trainer.mismatch import LOG_RATIO_BOUNDS, WEIGHT_BOUNDS, Counts, Mismatch
from ais.trainer.weights import codes
from benchmarks.observing.scraping import scraping_cost
from benchmarks.observing.turns import KINDS, Kind, Moment, Part, figures, kind_of, turns
from benchmarks.support.report import Figure

LOG_RATIOS, WEIGHTS = (Counts((0.0,) * (len(bounds) + 1), 0.0) for bounds in (LOG_RATIO_BOUNDS, WEIGHT_BOUNDS))
UNSEEN = Mismatch(None, None, LOG_RATIOS, WEIGHTS, WEIGHTS, (), {}, {})
PARTS = (
    Part(Spread, "add"),
    Part(Spread, "merge"),
    Part(Spread, "mismatch", lambda *_arguments: UNSEEN),
    Part(Announcer, "_record"),
    Part(codes.CodeWatch, "offered", timed=False),
    Part(codes, "sampled"),
    Part(codes, "changed", lambda *_arguments: 0.0),
)


def steps_of(rounds: int, block: int) -> int:
    """How many steps so many rounds take, with one that warms up and the step that ends the last block."""
    return block * len(KINDS) * (rounds + 1) + 1


def observing_figures(name: str, block: int, train: Callable[[], object]) -> dict[str, Figure]:
    """`train` makes `steps_of(rounds, block)` steps by the trainer service in this process.

    `block`: steps in a row of one kind. The first is left out: what was told of the step before it may be under way
    still.
    """
    begun: list[Moment] = []
    registries: list[CollectorRegistry] = []
    step = Learner.step

    def kept(*names: str) -> CollectorRegistry:
        registries.append(service_registry(*names))
        return registries[-1]

    with ExitStack() as stack:
        taken = stack.enter_context(turns(PARTS))

        def counted(self: Learner, *arguments: Any) -> Any:
            begun.append(taken.now())
            taken.take((len(begun) - 1) // block)
            return step(self, *arguments)

        stack.enter_context(patch.object(Learner, "step", counted))
        stack.enter_context(patch("ais.trainer.service.service_registry", kept))
        train()
    found = figures(name, "a step", _rounds(begun, block))
    return found | {f"{name}_scraping_cost": asyncio.run(scraping_cost(registries[-1]))}


def _rounds(begun: list[Moment], block: int) -> list[dict[Kind, Moment]]:
    """Seconds of a step of each kind, by round. The first round warms up."""
    rounds: list[dict[Kind, Moment]] = []
    for number in range(len(KINDS), (len(begun) - 1) // block):
        if number % len(KINDS) == 0:
            rounds.append({})
        whole = begun[block * (number + 1)].since(begun[block * number + 1])
        each = block - 1
        rounds[-1][kind_of(number)] = Moment(whole.processor / each, whole.wall / each, whole.parts / each)
    return rounds
