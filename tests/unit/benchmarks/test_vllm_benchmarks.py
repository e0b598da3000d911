"""How the benchmarks of the vLLM engine judge what they have measured."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import PolicySpan, Trajectory
from tests.support.records import trajectory_of


def test_ratios_are_taken_within_a_round() -> None:
    from benchmarks.support.rollout_vllm import figures

    found = figures(
        "0.6b",
        {  # the machine was half as fast in the second round, and four times in the third
            ("bf16", 16, "direct"): [40.0, 20.0, 160.0],
            ("bf16", 16, "service"): [39.0, 19.5, 156.0],
            ("int8", 16, "direct"): [56.0, 28.0, 224.0],
            ("int8", 16, "service"): [56.0, 28.0, 224.0],
        },
    )
    assert found["0.6b_int8_16_against_bf16"]["value"] == pytest.approx(1.4)
    assert found["0.6b_int8_16_against_bf16"]["reference"] == 1.3
    assert found["0.6b_bf16_16_overhead"]["value"] == pytest.approx(0.025)
    assert found["0.6b_bf16_16_overhead"]["highest"] == pytest.approx(0.025)


def test_memory_grows_by_its_highest_point_after_the_tenth_update() -> None:
    from benchmarks.updates import Load, Update, figures

    memory = [900] * 9 + [1000] + [1010] * 20 + [1080] + [1000] * 5
    made = [Update(version, 0.1, 0.05, 0.0, used, version) for version, used in enumerate(memory, 1)]
    found = figures("vllm", made, Load(cast(Any, None), vocab_size=8), snapshot_bytes=1)
    assert found["vllm_memory_growth"]["value"] == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("versions", "right"),
    [
        ((3,), True),
        ((3, 4, 5), True),
        ((2, 3), False),  # 3 had been confirmed before the call began
        ((5, 6), False),  # 6 has not been sent yet
        ((5, 4), False),
        ((4, 4), False),
    ],
)
def test_a_response_with_versions_that_cannot_be_is_counted(versions: tuple[int, ...], right: bool) -> None:
    from benchmarks.updates import Load

    load = Load(cast(Any, None), vocab_size=8, served=4, pushed=5)
    load.check(response(versions), served_at_start=3)
    assert load.wrong == (not right)


def response(versions: tuple[int, ...]) -> Trajectory:
    """A token of each version."""
    return trajectory_of(
        np.zeros(len(versions), dtype=np.int32),
        "group",
        0,
        np.zeros(len(versions), dtype=np.float32),
        spans=tuple(PolicySpan(version, index, index + 1) for index, version in enumerate(versions)),
        finish_reason=FinishReason.LENGTH,
        engine="vllm",
        replica_id="replica",
    )
