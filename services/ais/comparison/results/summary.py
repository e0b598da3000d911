"""From cells to rows: each method on each task, format and staleness, over its seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ais.comparison.grid import UNCORRECTED
from ais.comparison.records import Record
from ais.comparison.results.measures import Measures, measure
from ais.comparison.results.statistics import Estimate, Paired, estimate, paired
from ais.comparison.settings import BF16

MEASURES = tuple(field.name for field in dataclasses.fields(Measures))
COMPARED = ("p_late", "q_late")
"""Measures that are compared with a baseline, seed by seed. The baseline's own policy is its BF16 one."""

Seeds = Mapping[int, Measures]


@dataclass(frozen=True)
class Row:
    """One method on one task, format and staleness."""

    task: str
    format: str
    method: str
    staleness: int
    seeds: tuple[int, ...]
    estimates: Mapping[str, Estimate]
    """Every measure, over the seeds."""
    worst_fall: float
    """The worst fall of the BF16 policy in any seed."""
    against_bf16: Mapping[str, Paired]
    """The late scores less the late score of the BF16 policy that was trained, uncorrected, on BF16 rollouts."""
    against_uncorrected: Mapping[str, Paired]
    """The late scores less those of `none` in the same format. Both are over the seeds that both have."""

    @property
    def is_reference(self) -> bool:
        return (self.format, self.method) == (BF16, UNCORRECTED)


def summarize(records: Sequence[Record]) -> list[Row]:
    """A row for each method, in the order in which they first come."""
    cells: dict[tuple[str, str, str, int], dict[int, Measures]] = {}
    for record in records:
        place = record.place
        cells.setdefault((place.task, place.format, place.method, place.staleness), {})[place.seed] = measure(record)
    rows = []
    for (task, form, method, staleness), seeds in cells.items():
        reference = cells.get((task, BF16, UNCORRECTED, staleness), {})
        uncorrected = cells.get((task, form, UNCORRECTED, staleness), {})
        bf16_scores = {seed: measures.p_late for seed, measures in reference.items()}
        rows.append(
            Row(
                task=task,
                format=form,
                method=method,
                staleness=staleness,
                seeds=tuple(sorted(seeds)),
                estimates={name: estimate(_column(seeds, name)) for name in MEASURES},
                worst_fall=max(_column(seeds, "p_fall"), default=math.nan),
                against_bf16={name: _paired(_scores(seeds, name), bf16_scores) for name in COMPARED},
                against_uncorrected={
                    name: _paired(_scores(seeds, name), _scores(uncorrected, name)) for name in COMPARED
                },
            )
        )
    return rows


def _column(seeds: Seeds, name: str) -> list[float]:
    values = (getattr(measures, name) for measures in seeds.values())
    return [value for value in values if not math.isnan(value)]


def _scores(seeds: Seeds, name: str) -> dict[int, float]:
    return {seed: getattr(measures, name) for seed, measures in seeds.items()}


def _paired(own: Mapping[int, float], other: Mapping[int, float]) -> Paired:
    common = sorted(own.keys() & other.keys())
    return paired([own[seed] for seed in common], [other[seed] for seed in common])
