"""The judgement of a probe: closed forms of the gap, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ais.contracts.sampling import Precision
from ais.contracts.weights.probe import PROBE_KEY, Probe
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.rollout.engines.probe import judge, probe_of, tolerance

PROBE = Probe(token_ids=((1, 2, 3), (4, 5)), logprobs=((-1.0, -2.0), (-0.5,)))


def test_the_gap_is_the_mean_over_all_tokens_and_the_largest_is_told() -> None:
    result = judge(PROBE, [[-1.25, -1.5], [-0.5]], allowed=0.3)
    assert (result.mean_abs_gap, result.max_abs_gap) == (0.25, 0.5)


def test_a_gap_up_to_the_tolerance_passes_and_a_larger_one_is_refused_with_its_size() -> None:
    assert judge(PROBE, [[-1.5, -2.5], [-1.0]], allowed=0.5).mean_abs_gap == 0.5
    with pytest.raises(WeightsRefusedError, match=r"within 0.4 nats.*measured gap of 0.5 .*largest 0.75") as refusal:
        judge(PROBE, [[-1.25, -2.5], [-1.25]], allowed=0.4)
    assert (refusal.value.field, refusal.value.probe_gap) == ("probe", 0.5)


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_one_log_prob_that_is_not_finite_is_refused_whatever_the_tolerance(broken: float) -> None:
    with pytest.raises(WeightsRefusedError, match="NaN or infinity for 1 of 3") as refusal:
        judge(PROBE, [[-1.0, broken], [-0.5]], allowed=math.inf)
    assert refusal.value.probe_gap is None


@pytest.mark.parametrize(
    ("precision", "allowed"),
    [
        (Precision(weights="bf16"), 0.1),
        (Precision(weights="bf16", kv_cache="e5m2"), 0.7),
        (Precision(weights="int8", activations="int8"), 0.5),
        (Precision(), 0.5),
        (Precision(weights="e5m2"), 0.7),
        (Precision(weights="e2m1"), 1.0),
    ],
)
def test_the_coarsest_format_that_computes_sets_the_tolerance(precision: Precision, allowed: float) -> None:
    assert tolerance(precision) == allowed


def test_a_malformed_probe_refuses_the_weights_it_came_with(tmp_path: Path) -> None:
    (tmp_path / "snapshot").write_bytes(save({"a": torch.ones(1)}, metadata={PROBE_KEY: "{}"}))
    with pytest.raises(WeightsRefusedError) as refusal:
        probe_of([tmp_path / "snapshot"], vocab_size=10)
    assert refusal.value.field == "probe.token_ids"
