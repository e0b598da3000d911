"""docs/metrics.md is what the code says, and the code says something of every metric."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from ais.catalogue import services
from ais.cli import app
from ais.collector.metrics import CollectorMetrics
from ais.rollout.metrics import RolloutMetrics
from ais.runtime.metrics.meter import Described
from ais.runtime.metrics.registry import service_registry
from ais.trainer.metrics import TrainerMetrics

ROOT = Path(__file__).parents[2]


def catalogue() -> dict[str, Described]:
    return {one.name: one for described in services().values() for one in described}


def test_the_command_prints_the_document() -> None:
    printed = CliRunner().invoke(app, ["metrics"])
    assert printed.exit_code == 0
    assert printed.output == (ROOT / "docs/metrics.md").read_text(encoding="utf-8"), "ais metrics > docs/metrics.md"


def test_every_metric_of_a_service_is_in_the_catalogue() -> None:
    registry = service_registry("test")
    CollectorMetrics(registry)
    RolloutMetrics(registry).watch(MagicMock())
    TrainerMetrics(registry)
    names = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
        if not family.name.startswith("process_")
    }
    assert names == catalogue().keys()


def test_no_name_is_defined_twice_and_each_says_what_to_do() -> None:
    described = [one for group in services().values() for one in group]
    assert len({one.name for one in described}) == len(described)
    assert [one.name for one in described if not one.meaning.endswith(".") or not one.cure.endswith(".")] == []


def test_counters_of_failures_have_all_their_series_before_the_first_failure() -> None:
    registry = CollectorRegistry()
    CollectorMetrics(registry, ["main"])
    RolloutMetrics(registry)
    TrainerMetrics(registry)
    for name, labels in {
        "ais_collector_call_failures_total": {"reason": "unavailable"},
        "ais_collector_judgements_total": {"component": "main", "outcome": "overtime"},
        "ais_rollout_weight_swaps_total": {"outcome": "422"},
        "ais_weight_pushes_total": {"outcome": "failed"},
        "ais_trainer_warnings_total": {"kind": "reward_collapsed"},
        "ais_groups_discarded_total": {"field": "trajectories.behaviour_logprobs"},
        "ais_skipped_steps_total": {"reason": "not_finite"},
    }.items():
        assert registry.get_sample_value(name, labels) == 0.0, name
