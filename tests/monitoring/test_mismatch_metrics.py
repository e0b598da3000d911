"""Distributions of a batch, what each replica's tokens differ by, and how many codes an update changes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry
from safetensors.torch import save_file

from ais.contracts.trajectory import ScoredGroup
from ais.runtime.metrics.meter import Meter
from ais.trainer.learning.spread import Spread
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.mismatch import LOG_RATIO_BOUNDS, WEIGHT_BOUNDS
from ais.trainer.policy.microbatch import Microbatch
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.weights.codes import SAMPLED_WEIGHTS, CodeWatch, changed, sampled
from ais.trainer.weights.snapshot import Snapshot, SnapshotFile
from ais_core.numerics import Format
from tests.support.records import trajectory_of
from tests.support.trainer_groups import make_group

CPU = torch.device("cpu")


def microbatch(sequences: Sequence[int], lengths: Sequence[int]) -> Microbatch:
    """What `Spread` reads of one."""
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    fields = dict.fromkeys(Microbatch.__dataclass_fields__)
    return Microbatch(**{**fields, "rows": rows, "sequences": torch.tensor(sequences)})  # type: ignore[arg-type]


def sampled_by(*replicas: str) -> ScoredGroup:
    members = [trajectory_of([1, 2], sample_index=index, replica_id=name) for index, name in enumerate(replicas)]
    return replace(make_group(0), trajectories=tuple(members))


def test_tokens_are_counted_by_log_ratio_and_weight_and_mismatch_is_told_by_replica() -> None:
    group = sampled_by("a", "b", "a")
    logs = torch.tensor([0.0, 0.2, -0.2, 5.0, 0.0])
    weights = torch.tensor([1.0, 1.2, 0.8, 2.0, 0.0])
    spread = Spread(3, CPU)
    spread.add(logs[:3], weights[:3], microbatch([0, 1], [2, 1]))
    spread.add(logs[3:], weights[3:], microbatch([2], [2]))
    spread.merge(Ranks(CPU))
    found = spread.mismatch([group], None)

    def expected(values: torch.Tensor, bounds: tuple[float, ...]) -> list[float]:
        places = [
            next((place for place, bound in enumerate(bounds) if value <= bound), len(bounds)) for value in values
        ]
        return [float(places.count(place)) for place in range(len(bounds) + 1)]

    assert list(found.log_ratios.counts) == expected(logs, LOG_RATIO_BOUNDS)
    assert list(found.applied_weights.counts) == expected(weights, WEIGHT_BOUNDS)
    assert list(found.raw_weights.counts) == expected(logs.exp(), WEIGHT_BOUNDS)
    assert found.applied_weights.total == pytest.approx(5.0)
    precision = str(group.trajectories[0].precision)
    ours, theirs = found.by_replica["a", precision], found.by_replica["b", precision]
    assert (ours.tokens, theirs.tokens) == (4, 1)
    assert ours.log_ratio_abs_mean == pytest.approx((0.0 + 0.2 + 5.0 + 0.0) / 4)
    ratios = torch.tensor([0.0, 0.2, 5.0, 0.0]).double().exp()
    assert ours.ess_ratio == pytest.approx(float(ratios.sum() ** 2 / (4 * ratios.square().sum())), rel=1e-5)
    assert theirs.ess_ratio == pytest.approx(1.0)


def test_a_replica_that_sampled_nothing_of_the_last_batch_is_not_shown_any_more() -> None:
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    for name in ("a", "b"):
        spread = Spread(1, CPU)
        spread.add(torch.tensor([0.5]), torch.tensor([1.0]), microbatch([0], [1]))
        metrics.correction.distributions(spread.mismatch([sampled_by(name)], None))
    shown = {
        sample.labels["replica"]
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "ais_replica_tokens"
    }
    assert shown == {"b"}
    beyond = {"weights": "raw", "le": "2.0"}
    assert registry.get_sample_value("ais_importance_weight_bucket", beyond) == 2.0, "histograms go on"


def test_a_gauge_about_things_that_come_and_go_is_bounded() -> None:
    registry = CollectorRegistry()
    gauge = Meter(registry).replaced_gauge("ais_test", "A test.", "None.", {"name": ()})
    gauge.show({(str(number),): number for number in range(1000)})
    values = [sample.value for family in registry.collect() for sample in family.samples]
    assert sorted(values) == list(range(744, 1000))


def version(directory: Path, number: int, weights: torch.Tensor) -> Snapshot:
    file = directory / f"{number}.safetensors"
    save_file({"model.layers.0.mlp.up_proj.weight": weights.bfloat16(), "model.norm.weight": torch.ones(4)}, file)
    return Snapshot(number, "", (SnapshotFile(file, file.stat().st_size, ""),))


@pytest.mark.parametrize("number_format", ["e4m3", "e5m2", "int8", "e2m1"])
def test_an_update_smaller_than_the_grid_changes_bf16_and_hardly_a_code(number_format: Format, tmp_path: Path) -> None:
    before = torch.linspace(-1.0, 1.0, 4096).reshape(8, 512)
    small, large = before * (1 + 2**-7), before.flip(1)
    old = sampled(version(tmp_path, 0, before))
    # A whole row times one number is the same codes under another scale, but for the rounding to BF16 before.
    assert changed(old, sampled(version(tmp_path, 1, small)), number_format) < 0.2
    assert changed(old, sampled(version(tmp_path, 1, small)), "bf16") > 0.9
    assert changed(old, sampled(version(tmp_path, 2, large)), number_format) > 0.5
    assert changed(old, old, number_format) == 0.0


def test_of_many_weights_whole_rows_are_looked_at_the_same_of_each_version(tmp_path: Path) -> None:
    rows = 3 * SAMPLED_WEIGHTS // 1024
    weights = torch.arange(rows).float()[:, None].expand(rows, 1024)
    (sample,) = sampled(version(tmp_path, 0, weights)).values()
    assert sample.shape == (math.ceil(rows / 3), 1024)
    assert torch.equal(sample[:, 0], torch.arange(0, rows, 3).bfloat16())


async def test_versions_that_come_soon_after_a_comparison_are_not_looked_at(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    watch = CodeWatch(TrainerMetrics(registry))

    def looks_at(number: int) -> list[asyncio.Task[None]]:
        watch.offered(version(tmp_path, number, torch.full((2, 2), float(number))))
        return [task for task in asyncio.all_tasks() if task.get_name() == f"codes of {number}"]

    for number in (0, 1):
        await asyncio.gather(*looks_at(number))
    assert registry.get_sample_value("ais_weight_changed_codes_ratio", {"format": "bf16"}) == 1.0
    assert looks_at(2) == []
