"""The metrics of a reward's named components: right means, and no more names than the settings allow."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry

from ais.collector.judging.judgement import MOST_PARTS
from ais.collector.judging.means import ComponentMeans, ComponentNames
from ais.collector.metrics import CollectorMetrics
from ais.collector.settings import TaskSettings
from ais.contracts.reward_components import RewardComponent

METRIC = "ais_reward_component_mean"


def test_a_mean_is_over_the_newest_groups_that_have_the_component() -> None:
    means = ComponentMeans(ComponentNames(["answer", "length"]), groups=2)
    assert means.take([RewardComponent("answer", 1.0, (1.0, 0.0)), RewardComponent("length", 0.5, (-1.0, 0.0))]) == {
        "answer": 0.5,
        "length": -0.5,
    }
    assert means.take([RewardComponent("answer", 1.0, (1.0, 1.0))]) == {"answer": 0.75}
    assert means.take([RewardComponent("answer", 1.0, (0.0, 0.0))]) == {"answer": 0.5}
    assert means.take([RewardComponent("length", 0.5, (0.0, 0.0))]) == {"length": -0.25}


def test_only_names_of_the_settings_and_a_bounded_number_of_their_parts_are_admitted() -> None:
    names = ComponentNames(["own"])
    admitted = [part for part in range(MOST_PARTS + 5) if names.admits(f"own.{part}")]
    assert admitted == list(range(MOST_PARTS))
    assert names.admits("own.0")
    assert names.admits("own")
    assert not names.admits("other")
    assert not names.admits("other.part")


def test_every_component_of_the_settings_has_its_label_from_the_start() -> None:
    sources = [
        {"digits": 4, "label": "four"},
        {"digits": 6, "label": "six", "reward": [{"verifier": "numeric"}, {"verifier": "overlong", "buffer": 4}]},
    ]
    labels = TaskSettings.model_validate({"name": "mixture", "sources": sources}).all_component_labels
    assert labels == {"exact_match", "numeric", "overlong"}
    registry = CollectorRegistry()
    CollectorMetrics(registry, labels, 4)
    values = [registry.get_sample_value(METRIC, {"component": label}) for label in labels]
    assert all(value is not None and math.isnan(value) for value in values)
