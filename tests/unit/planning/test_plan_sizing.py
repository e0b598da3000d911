"""The arithmetic of `ais plan` by closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.planning import measured
from ais.planning.rates import GPUS, MEASURED_GPU, fitted_decoding, roofline_seconds
from ais.planning.shapes import MODELS, Shape
from ais.planning.sizing import Job, levels, plan, version_of

JOB = Job(
    MODELS["8b"], GPUS["h100"], prompt=512, response=2048, longest=8192, groups=64, samples=8, staleness=1,
    trainer_gpus=8, replicas=4, replica_gpus=1, slots=128, link=12.5e9, fanout=8, deltas=False, pass_tokens=8192,
)  # fmt: skip


def test_a_small_model_is_counted_by_hand() -> None:
    shape = Shape(hidden=4, inner=8, layers=2, heads=2, key_value_heads=1, head=3, vocabulary=10, tied=False)
    layer = 4 * 6 + 2 * 4 * 3 + 6 * 4 + 3 * 4 * 8  # q, k and v, o, gated MLP
    assert shape.matrices == 2 * layer
    assert shape.parameters == 2 * layer + 2 * (2 * 4 + 2 * 3) + 4 + 2 * 40
    assert shape.cache_bytes == 2 * 2 * 2 * 3
    assert shape.forward_flops(5) == 2 * (2 * layer + 40) + 2 * (4 * 2 * 3 * 5)
    assert shape.served_bytes(fp8=False) == 2 * shape.parameters
    assert shape.served_bytes(fp8=True) == 2 * shape.parameters - shape.matrices


@pytest.mark.parametrize(("name", "billions"), [("0.6b", 0.596), ("4b", 4.02), ("8b", 8.19), ("70b", 70.6)])
def test_models_have_the_parameters_that_their_publishers_say(name: str, billions: float) -> None:
    assert MODELS[name].parameters / 1e9 == pytest.approx(billions, rel=0.003)


@given(st.integers(1, 5000), st.integers(2, 64))
def test_a_tree_has_as_many_levels_as_it_needs(replicas: int, fanout: int) -> None:
    depth = levels(replicas, fanout)
    assert sum(fanout**level for level in range(1, depth + 1)) >= replicas
    assert sum(fanout**level for level in range(1, depth)) < replicas


def test_the_records_that_decoding_was_fitted_by_come_out() -> None:
    for name, batch, record in (("8b", 256, measured.DECODE_8B), ("4b", 128, measured.DECODE_4B)):
        seconds = fitted_decoding().seconds(MODELS[name], MEASURED_GPU, batch, measured.DECODE_CONTEXT)
        assert seconds * 1e3 == pytest.approx(record.value)
    assert fitted_decoding().factor > 1  # nothing is faster than the roofline
    assert roofline_seconds(MODELS["8b"], MEASURED_GPU, 0, 0) == pytest.approx(
        (MODELS["8b"].matrices + 2 * MODELS["8b"].embedding + 2 * 36 * (2 * 4096 + 2 * 128) + 2 * 4096) / 4.8e12
    )


def test_a_step_takes_as_long_as_its_busiest_part_or_the_way_round_by_the_versions_it_may_be_behind() -> None:
    far = plan(replace(JOB, staleness=1000))
    assert far.step == max(far.sampling, far.training)
    near = plan(replace(JOB, staleness=0))
    assert near.step == max(near.sampling, near.slowest) + near.training + near.version.seconds
    enough = plan(replace(JOB, staleness=far.wanted_staleness))
    assert enough.step == pytest.approx(far.step)
    assert plan(replace(JOB, staleness=far.wanted_staleness - 1)).step > far.step


def test_replicas_that_are_asked_for_keep_the_trainer_busy_and_one_less_would_not() -> None:
    made = plan(replace(JOB, replicas=None, trainer_gpus=64))
    assert made.replicas > 1
    assert made.sampling <= made.training
    assert plan(replace(JOB, replicas=made.replicas - 1, trainer_gpus=64)).sampling > made.training


@given(st.integers(1, 512))
def test_twice_the_gpus_halve_the_time_of_their_side(count: int) -> None:
    once, twice = (plan(replace(JOB, trainer_gpus=number, replicas=number)) for number in (count, 2 * count))
    assert once.training == pytest.approx(2 * twice.training)
    assert once.sampling == pytest.approx(2 * twice.sampling)


def test_a_version_goes_down_the_tree_level_by_level() -> None:
    version = version_of(replace(JOB, fanout=4), replicas=20)
    assert version.depth == 2
    assert version.bytes == 2 * MODELS["8b"].parameters
    assert version.send == pytest.approx(2 * 4 * version.bytes / 12.5e9)
    delta = version_of(replace(JOB, deltas=True), replicas=20)
    assert delta.bytes / version.bytes == pytest.approx(measured.DELTA.value / measured.VERSION.value)
    assert plan(replace(JOB, fanout=8, replicas=3)).egress == pytest.approx(3 * version.bytes)


def test_limits_are_loads_by_what_was_measured() -> None:
    made = plan(JOB)
    limits = {one.name: one for one in made.limits}
    per_second = JOB.sequences / made.step
    assert limits["Redis, trajectories"].load == pytest.approx(per_second)
    assert limits["Redis, bytes"].load * 1e6 == pytest.approx(per_second * (2048 * 8 + 300))
    assert limits["collector"].load == pytest.approx(per_second * measured.COLLECTOR.value / 1e3)


def test_sequences_that_do_not_fit_wait_and_a_model_that_does_not_is_told() -> None:
    crowded = plan(replace(JOB, slots=1 << 16))
    assert crowded.slots < 1 << 16
    assert crowded.replica_memory <= 0.9 * JOB.gpu.memory
    with pytest.raises(ValueError, match="does not fit"):
        plan(replace(JOB, shape=MODELS["70b"]))
    assert math.isfinite(plan(replace(JOB, shape=MODELS["70b"], replica_gpus=2, response=64, longest=64)).step)
