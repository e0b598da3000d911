"""A mask that leaves out nearly everything gives concern: what stays is chance, and such runs were lost."""

import pytest
import torch

import ais_core
from ais_core import CorrectionSettings, SequenceBatch
from ais_core.plan import Plan

SEQUENCES, TOKENS = 256, 17
ENGINE_ERROR = 0.1
"""Nats a token: then the log-ratio of a sequence has a standard deviation of .41; in the demo's E4M3 it has .44."""


def plan_for(settings: CorrectionSettings) -> Plan:
    logs = ENGINE_ERROR * torch.randn(SEQUENCES * TOKENS, generator=torch.Generator().manual_seed(0))
    correction = ais_core.build(settings)
    batch = SequenceBatch.packed(logs, torch.full((SEQUENCES,), TOKENS))
    return correction.plan(correction.measure(batch, torch.ones(SEQUENCES)), None)[0]


def test_the_bounds_that_are_common_for_geometric_means_reject_answers_of_fp8() -> None:
    plan = plan_for(CorrectionSettings(method="geometric_mask"))
    assert plan.diagnostics is not None
    assert 0.0 < plan.diagnostics.kept_share < 0.1
    assert plan.concerns == ("rejected",)


@pytest.mark.parametrize(
    "settings",
    [
        CorrectionSettings(method="geometric_mask", lower=0.9, upper=1.1),
        CorrectionSettings(method="icepop"),
        CorrectionSettings(method="tis"),
        CorrectionSettings(method="ais"),
    ],
)
def test_a_correction_that_keeps_the_batch_gives_no_such_concern(settings: CorrectionSettings) -> None:
    assert plan_for(settings).concerns == ()
