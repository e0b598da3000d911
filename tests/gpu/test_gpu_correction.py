"""The correction of a batch on a GPU is that of a processor, up to the order of additions."""

from __future__ import annotations

import math

import pytest
import torch

import ais_core
from ais_core import CorrectionSettings, MixingSettings, RejectionSettings, SequenceBatch

SAME_BATCH = MixingSettings(evaluation="same_batch")
CORRECTIONS = {
    "none": CorrectionSettings(method="none"),
    "ais sequence": CorrectionSettings(level="sequence", mixing=SAME_BATCH),
    "ais adaptive": CorrectionSettings(level="adaptive", mixing=SAME_BATCH),
    "ais prefix": CorrectionSettings(level="prefix", mixing=SAME_BATCH),
    "tis token": CorrectionSettings(method="tis", level="token"),
    "icepop": CorrectionSettings(method="icepop"),
    "handover": CorrectionSettings(method="handover", mixing=SAME_BATCH),
    "m2po": CorrectionSettings(method="m2po"),
    "opsm": CorrectionSettings(method="opsm"),
    "geometric mask": CorrectionSettings(method="geometric_mask"),
    "rejection by a maximum": CorrectionSettings(
        mixing=SAME_BATCH, rejections=(RejectionSettings("k3", "sequence_max", 0.0, 0.02),)
    ),
}
ROWS, COLUMNS = 24, 50


def batch_on(device: torch.device, layout: str, mismatch: float) -> tuple[SequenceBatch, torch.Tensor]:
    """Sequences of different lengths, one of them empty, with version lags; and their advantages."""
    generator = torch.Generator().manual_seed(0)
    logs = torch.randn(ROWS, COLUMNS, generator=generator) * mismatch
    logs[5, :3] = torch.tensor([-30.0, 12.0, 0.9])
    lags = torch.randint(0, 3, (ROWS, COLUMNS), generator=generator)
    lengths = torch.arange(ROWS) * 2
    mask = torch.arange(COLUMNS) < lengths[:, None]
    advantages = torch.randn(ROWS, generator=generator).to(device)
    if layout == "padded":
        return SequenceBatch.padded(logs.to(device), mask.to(device), lags.to(device)), advantages
    packed = SequenceBatch.packed(logs[mask].to(device), lengths.to(device), lags[mask].to(device))
    return packed, advantages


@pytest.mark.parametrize("mismatch", [0.02, 0.3])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("name", CORRECTIONS)
def test_sums_plan_and_weights_are_the_processors(
    name: str, layout: str, mismatch: float, device: torch.device
) -> None:
    correction = ais_core.build(CORRECTIONS[name])
    (expected, advantages), (found, moved) = (
        batch_on(torch.device("cpu"), layout, mismatch),
        batch_on(device, layout, mismatch),
    )
    sums, on_device = correction.measure(expected, advantages), correction.measure(found, moved)
    assert on_device.device.type == device.type
    torch.testing.assert_close(on_device.cpu(), sums, rtol=1e-4, atol=1e-3)
    plan, state = correction.plan(sums, None)
    other, other_state = correction.plan(on_device, None)
    assert (other.alpha is None) == (plan.alpha is None)
    assert other.alpha is None or math.isclose(other.alpha, plan.alpha or 0.0, rel_tol=1e-4, abs_tol=1e-6)
    assert other.concerns == plan.concerns
    assert (state is None) == (other_state is None)
    weights = correction.weights(found, moved, plan)
    assert weights.device.type == device.type
    torch.testing.assert_close(weights.cpu(), correction.weights(expected, advantages, plan), rtol=1e-4, atol=1e-6)


def test_both_branches_are_on_the_device_and_add_up_to_the_weights(device: torch.device) -> None:
    correction = ais_core.build(CORRECTIONS["ais adaptive"])
    batch, advantages = batch_on(device, "packed", 0.3)
    plan, _ = correction.plan(correction.measure(batch, advantages), None)
    weighted, uncorrected = correction.branches(batch, advantages, plan)
    torch.testing.assert_close(weighted + uncorrected, correction.weights(batch, advantages, plan))
