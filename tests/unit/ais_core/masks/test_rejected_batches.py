"""A mask that leaves out nearly everything gives concern: what stays is chance, and such runs were lost."""

import pytest
import torch

import ais_core
from ais_core import CorrectionSettings, SequenceBatch
from ais_core.plan import Plan
from ais_core.settings import RejectionSettings

SEQUENCES, TOKENS = 256, 17
ENGINE_ERROR = 0.1
"""Nats a token: then the log-ratio of a sequence has a standard deviation of .41; in the demo's E4M3 it has .44."""


def plan_for(settings: CorrectionSettings) -> Plan:
    logs = ENGINE_ERROR * torch.randn(SEQUENCES * TOKENS, generator=torch.Generator().manual_seed(0))
    correction = ais_core.build(settings)
    batch = SequenceBatch.packed(logs, torch.full((SEQUENCES,), TOKENS))
    return correction.plan(correction.measure(batch, torch.ones(SEQUENCES)), None)[0]


NARROW = {"lower": 0.999, "upper": 1.001}


@pytest.mark.parametrize(
    "settings",
    [
        CorrectionSettings(method="geometric_mask"),
        CorrectionSettings(method="sequence_mask", **NARROW),
        CorrectionSettings(method="icepop", **NARROW),
        CorrectionSettings(method="mis", level="token", **NARROW),
        CorrectionSettings(method="mis", level="sequence", **NARROW),
        CorrectionSettings(method="mis", level="sequence", lower=50.0, upper=60.0),  # nothing at all
        CorrectionSettings(method="ais", rejections=(RejectionSettings(statistic="k2", over="token", upper=1e-6),)),
    ],
    ids=lambda one: f"{one.method}-{one.level}",
)
def test_bounds_that_leave_out_nearly_all_give_concern(settings: CorrectionSettings) -> None:
    """The first has verl's and others' usual bounds, .999 to 1.001."""
    assert plan_for(settings).concerns == ("rejected",)


@pytest.mark.parametrize(
    "settings",
    [
        CorrectionSettings(method="geometric_mask", lower=0.9, upper=1.1),
        CorrectionSettings(method="sequence_mask", lower=0.2, upper=5.0),
        CorrectionSettings(method="icepop"),
        CorrectionSettings(method="mis", level="sequence"),
        CorrectionSettings(method="ais", rejections=(RejectionSettings(statistic="k2", over="token", upper=1.0),)),
    ],
    ids=lambda one: f"{one.method}-{one.level}",
)
def test_bounds_that_keep_the_batch_give_none(settings: CorrectionSettings) -> None:
    assert plan_for(settings).concerns == ()
