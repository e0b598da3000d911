"""The parts of a mismatch: one more at each stage, and shares that make up the whole."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.contracts.sampling import Precision
from benchmarks.support.mismatch_budget import KERNELS, NothingToExplainError, shares, stages

PRECISIONS = st.builds(
    Precision,
    weights=st.sampled_from(["bf16", "e4m3", "e5m2", "int8"]),
    activations=st.sampled_from(["bf16", "e4m3", "int8"]),
    kv_cache=st.sampled_from(["bf16", "e4m3"]),
    scales=st.sampled_from(["maximum", "least_squares"]),
).flatmap(
    lambda precision: st.sampled_from(
        [precision, *(precision.model_copy(update={head: True}) for head in ("head", "float32_head"))]
    )
)


@given(PRECISIONS)
def test_stages_begin_in_bf16_add_one_part_each_and_end_at_the_precision(precision: Precision) -> None:
    try:
        found = {name: Precision.model_validate(overrides) for name, overrides in stages(precision).items()}
    except NothingToExplainError:
        assert (precision.weights, precision.kv_cache) == ("bf16", "bf16")
        return
    assert next(iter(found)) == KERNELS
    assert str(found[KERNELS]) == ("bf16, float32 head" if precision.float32_head else "bf16")
    assert str(list(found.values())[-1]) == str(precision)
    assert len({str(one) for one in found.values()}) == len(found) > 1


def test_the_parts_of_the_default_precision_are_its_weights_and_its_activations() -> None:
    assert list(stages(Precision())) == [KERNELS, "weights", "activations"]
    assert list(stages(Precision(kv_cache="e4m3", head=True)))[3:] == ["kv_cache", "head"]


def test_bf16_has_no_parts() -> None:
    with pytest.raises(NothingToExplainError, match="rollout.precision"):
        stages(Precision(weights="bf16", activations="e4m3"))


def test_shares_are_what_each_stage_adds_and_make_up_the_whole() -> None:
    found = shares({KERNELS: 0.1, "weights": 0.4, "activations": 0.3, "kv_cache": 0.5})
    assert list(found.values()) == pytest.approx([0.2, 0.6, -0.2, 0.4])
    assert math.isclose(sum(found.values()), 1.0)
