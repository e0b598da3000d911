"""A trainer that fails before it trains, as its metrics show it."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from ais.runtime.process import UnavailableError
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.policy.policy import Policy
from ais.trainer.service import shown_as_failed


def state(registry: CollectorRegistry, name: str) -> float | None:
    return registry.get_sample_value("ais_run_state", {"state": name})


def test_a_trainer_whose_model_cannot_be_loaded_is_shown_as_failed(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    with pytest.raises(UnavailableError), shown_as_failed(registry):
        Policy.load(tmp_path)
    assert (state(registry, "failed"), state(registry, "training")) == (1.0, 0.0)
    assert [metric.name for metric in registry.collect()] == ["ais_run_state"]  # zeros would be taken for figures


def test_a_trainer_that_loads_has_no_figures_that_could_be_taken_for_its_own() -> None:
    registry = CollectorRegistry()
    with shown_as_failed(registry):
        assert state(registry, "failed") is None
    TrainerMetrics(registry)  # which the trainer makes then
