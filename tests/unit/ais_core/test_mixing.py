"""The mixing coefficient: what it promises at every length and mismatch."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ais_core
from ais_core import CorrectionSettings, MixingSettings, Plan, SequenceBatch
from ais_core.diagnostics import Moments
from ais_core.levels import WHOLE
from ais_core.mixing import RULES, Mismatch, amplification, choose_rung, guard, mixed_moments, reliability, severity
from ais_core.plan import MixingTerms
from ais_core.settings import EXPONENT_LIMIT, Level

LENGTHS = (1, 16, 256, 4096, 16384)
MISMATCHES = (0.0, 0.001, 0.01, 0.1, 0.3, 1.0)
DEFAULT = MixingSettings()
KEEP_THE_FLOOR = {
    "plateau",
    "effective_sample",
    "severity_effective_sample",
    "severity_effective_sample_variation",
    "capped_alarm",
    "capped_smooth_alarm",
    "capped_severity_alarm",
}


def plan_and_weights(
    length: int, mismatch: float, sequences: int = 32, level: Level = "adaptive", **mixing: object
) -> tuple[Plan, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    logs = torch.randn(sequences * length, generator=generator) * mismatch - mismatch**2 / 2
    batch = SequenceBatch.packed(logs, torch.full((sequences,), length))
    settings = MixingSettings(evaluation="same_batch", **mixing)
    correction = ais_core.build(CorrectionSettings(level=level, mixing=settings))
    plan, _ = correction.plan(correction.measure(batch), None)
    return plan, correction.weights(batch, None, plan).double()


def ess_ratio(weights: torch.Tensor) -> float:
    return float(weights.sum() ** 2 / (weights.numel() * weights.square().sum()))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("mismatch", MISMATCHES)
@pytest.mark.parametrize("rule", ["plateau", "effective_sample"])
@pytest.mark.parametrize("level", ["sequence", "adaptive"])
def test_the_effective_sample_of_the_applied_weights_never_falls_under_the_floor(
    length: int, mismatch: float, rule: str, level: Level
) -> None:
    plan, weights = plan_and_weights(length, mismatch, level=level, rule=rule)
    assert 0.0 <= plan.alpha <= 1.0
    assert bool(weights.isfinite().all())
    assert ess_ratio(weights) >= 0.5 - 1e-6
    assert plan.effective_sample_ratio <= ess_ratio(weights) + 1e-5


@given(
    lengths=st.lists(st.integers(0, 200) | st.sampled_from([1, 1000, 3000]), min_size=1, max_size=12),
    mismatch=st.floats(0.0, 3.0),
    shift=st.floats(-1.0, 1.0),
    outlier=st.sampled_from([0.0, 5.0, -5.0, 1e4, -1e4]),
    floor=st.sampled_from([0.2, 0.5, 0.9]),
    level=st.sampled_from(["sequence", "adaptive"]),
)
def test_the_floor_holds_for_ragged_batches_biased_ratios_and_outliers(
    lengths: list[int], mismatch: float, shift: float, outlier: float, floor: float, level: Level
) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    logs = torch.randn(sum(lengths), generator=generator) * mismatch + shift * mismatch
    logs[: len(logs) // 7] += outlier
    batch = SequenceBatch.packed(logs, torch.tensor(lengths))
    mixing = MixingSettings(evaluation="same_batch", effective_sample_floor=floor)
    correction = ais_core.build(CorrectionSettings(level=level, mixing=mixing))
    plan, _ = correction.plan(correction.measure(batch), None)
    weights = correction.weights(batch, None, plan).double()
    assert 0.0 <= plan.alpha <= 1.0
    assert bool(weights.isfinite().all())
    if sum(lengths):
        assert ess_ratio(weights) >= floor - 1e-6


@pytest.mark.parametrize("length", LENGTHS)
def test_alpha_is_nothing_without_mismatch_and_large_at_a_mismatch_that_matters(length: int) -> None:
    assert plan_and_weights(length, 0.0)[0].alpha == 0.0
    assert plan_and_weights(length, 0.001)[0].alpha < 0.01
    assert plan_and_weights(length, 0.1)[0].alpha > 0.5


def test_at_sequence_level_alpha_fades_with_the_length_of_sequences_that_differ() -> None:
    """Few samples carry a batch of long products: the rule goes back to the uncorrected gradient by itself."""
    alphas = [plan_and_weights(length, 0.1, sequences=256, level="sequence")[0].alpha for length in (17, 256, 4096)]
    assert alphas == sorted(alphas, reverse=True)
    assert alphas[0] > 0.8
    assert alphas[2] < 0.5


def test_short_sequences_are_weighed_whole_and_long_ones_by_blocks() -> None:
    assert plan_and_weights(17, 0.1)[0].rung == WHOLE
    assert 0.0 < plan_and_weights(16384, 0.1)[0].rung < 10.0


def test_the_rung_moves_smoothly_with_the_mismatch() -> None:
    rungs = [plan_and_weights(1024, 0.1 + step * 0.001, sequences=16)[0].rung for step in range(40)]
    assert max(abs(a - b) for a, b in pairwise(rungs)) < 0.2
    assert rungs[-1] < rungs[0]


def test_beyond_the_mismatch_limit_nothing_is_weighed_and_the_plan_is_not_trusted() -> None:
    plan, weights = plan_and_weights(17, 10.0)
    assert plan.alpha == 0.0
    assert not plan.trusted
    assert torch.equal(weights, torch.ones_like(weights))


def test_rules_share_the_dial_and_constant_is_the_dial_itself() -> None:
    for rule in RULES:
        full, half = (plan_and_weights(17, 0.1, rule=rule, alpha_max=dial)[0].alpha for dial in (1.0, 0.5))
        assert half == pytest.approx(full / 2)
        assert 0.0 < full <= 1.0
    assert plan_and_weights(17, 0.1, rule="constant", alpha_max=0.75)[0].alpha == 0.75


positive = st.floats(1e-3, 1e3)


# Weights are exponentials of at least -EXPONENT_LIMIT: their mean cannot be smaller, but the mean of no weights is 0.
@given(
    mean=st.just(0.0) | st.floats(math.exp(-EXPONENT_LIMIT), 2.0),
    deviation=st.floats(0.0, 2.0),
    floor=st.floats(0.05, 0.95),
)
def test_reliability_is_the_largest_alpha_that_keeps_the_floor(mean: float, deviation: float, floor: float) -> None:
    truncated = Moments(mean, mean**2 + deviation**2)
    mismatch = Mismatch(100.0, 0.1, truncated, truncated)
    alpha = reliability(mismatch, MixingSettings(effective_sample_floor=floor))
    assert 0.0 < alpha <= 1.0
    if mean > 0:
        assert mixed_moments(truncated, alpha).ess_ratio >= floor - 1e-6
    if 1e-6 < alpha < 1.0 - 1e-6:
        assert mixed_moments(truncated, alpha).ess_ratio == pytest.approx(floor, abs=1e-6)


@given(small=st.floats(0.0, 5.0), step=st.floats(1e-3, 5.0))
def test_severity_grows_and_guard_falls_with_the_mismatch(small: float, step: float) -> None:
    low, high = (Mismatch(100.0, d, Moments(1.0, 1.0), Moments(1.0, 1.0)) for d in (small, small + step))
    assert 0.0 <= severity(low, DEFAULT) <= severity(high, DEFAULT) <= 1.0
    assert 1.0 >= guard(low, DEFAULT) >= guard(high, DEFAULT) >= 0.0


@given(effective=st.floats(1.0, 1e5), limited=st.floats(0.0, 1.0), batch=st.sampled_from([0.0, 4.0, 30.0]))
def test_amplification_is_its_closed_form(effective: float, limited: float, batch: float) -> None:
    mismatch = Mismatch(effective, 0.1, Moments(1.0, 1.0), Moments(1.0, 1.0), limited_share=limited)
    expected = (1.0 - limited) * (effective - 1.0) / (effective - 1.0 + batch) if effective > 1.0 else 0.0
    assert amplification(mismatch, MixingSettings(amplification_batch=batch)) == pytest.approx(expected)


def test_a_rung_is_interpolated_where_the_effective_sample_crosses_the_floor() -> None:
    assert choose_rung([0.9] * 16, 0.5) == WHOLE
    assert choose_rung([0.4] * 16, 0.5) == 0.0
    assert choose_rung([1.0, 0.5**0.5, 0.25, *[0.0] * 13], 0.5) == pytest.approx(1.0 + 1 / 3)
    assert choose_rung([1.0, math.nan, *[0.0] * 14], 0.5) == 0.0


@pytest.mark.parametrize("scale", [1e-3, 0.03, 0.3, 1.0])
def test_at_sequence_level_alpha_equals_the_formula_of_the_study_in_plain_floats(scale: float) -> None:
    logs = torch.randn(128, 17, generator=torch.Generator().manual_seed(0)) * scale
    batch = SequenceBatch.packed(logs.flatten(), torch.full((128,), 17))
    mixing = MixingSettings(evaluation="same_batch", mismatch_limit=math.inf)
    correction = ais_core.build(CorrectionSettings(level="sequence", mixing=mixing))
    plan, _ = correction.plan(correction.measure(batch), None)
    x = logs.double()
    w = x.sum(1).clamp(-20, 20).exp()
    t = x.clamp(max=math.log(2)).sum(1).exp().clamp(max=2)
    d, variation = float(x.abs().mean()), float(w.var(correction=0) / w.mean() ** 2)
    mean, deviation = float(t.mean()), float(t.std(correction=0))
    effective = 128 / (1 + variation)
    amplified = (effective - 1) / (effective - 1 + 4)
    alpha = d**2 / (d**2 + 0.02**2) * min(1.0, 1 / (deviation + 1 - mean)) * amplified
    assert plan.alpha == pytest.approx(alpha, rel=1e-5)


def study_rules(d: float, w: torch.Tensor, t: torch.Tensor, settings: MixingSettings) -> dict[str, float]:
    """The rules of the study by their name here, written from raw weights w and truncated weights t as the study did.

    Its amplification N / (N + n0 (1 + V^2)) counts one effective sequence less here: one alone is no evidence.
    D is the mean |log ratio| of tokens; V the CV of w; rho the ESS ratio of t; Dl the mean |log w|.
    """
    d0, v0, lam, floor = (
        settings.severity_scale,
        settings.variation_scale,
        settings.noise_weight,
        settings.effective_sample_floor,
    )
    n = len(w)
    v = float(w.std(correction=0) / w.mean())
    rho = float(t.sum() ** 2 / (n * (t**2).sum()))
    mean, deviation = float(t.mean()), float(t.std(correction=0))
    dl = float(w.log().abs().mean())
    k = math.sqrt(1 / floor - 1)
    ess = min(1.0, k / (deviation + k * (1 - mean)))
    gate = d**2 / (d**2 + d0**2)
    effective = n / (1 + v * v)
    amplified = (effective - 1) / (effective - 1 + settings.amplification_batch)
    return {
        "plateau": gate * ess * amplified,
        "constant": 1.0,
        "effective_sample": ess,
        "severity": gate,
        "amplification": amplified,
        "severity_effective_sample": gate * ess,
        "severity_effective_sample_variation": gate * ess / (1 + (v / v0) ** 2),
        "severity_reliability": gate * rho / (rho + lam * v),
        "product": rho * (1 - math.exp(-d / d0)) / (1 + v / v0),
        "bias_noise": gate * d / (d + lam * v / math.sqrt(rho)),
        "shrinkage": rho * dl**2 / (dl**2 + lam * v**2),
        "alarm": max(min((1 - rho) / (1 - floor), 1), min(d / d0, 1), min(v / v0, 1)),
        "capped_alarm": min(ess, min(max(d / d0, v / v0), 1)),
        "capped_smooth_alarm": min(ess, 1 - math.exp(-(d / d0 + v / v0))),
        "capped_severity_alarm": min(ess, min(d / d0, 1)),
    }


@pytest.mark.parametrize("scale", [1e-3, 0.03, 0.3])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_is_its_formula_in_the_study(rule: str, scale: float) -> None:
    logs = torch.randn(128, 17, generator=torch.Generator().manual_seed(0)) * scale - scale**2 / 2
    mixing = MixingSettings(
        rule=rule,
        evaluation="same_batch",
        severity_scale=0.05,
        variation_scale=0.7,
        noise_weight=0.1,
        effective_sample_floor=0.7,
        alpha_max=0.9,
    )
    correction = ais_core.build(CorrectionSettings(level="sequence", truncate_tokens=False, mixing=mixing))
    batch = SequenceBatch.packed(logs.flatten(), torch.full((128,), 17))
    plan, _ = correction.plan(correction.measure(batch), None)
    x = logs.double()
    w = x.sum(1).exp()
    expected = study_rules(float(x.abs().mean()), w, w.clamp(max=2.0), mixing)
    assert expected.keys() == RULES.keys()
    assert plan.alpha == pytest.approx(0.9 * expected[rule], rel=1e-5)


moments = st.tuples(st.floats(1e-6, 2.0), st.floats(0.0, 2.0)).map(lambda m: Moments(m[0], m[0] ** 2 + m[1] ** 2))


@pytest.mark.parametrize("rule", sorted(RULES))
@given(
    d=st.floats(0.0, 50.0),
    log_weight=st.floats(0.0, 500.0),
    truncated=moments,
    raw=moments,
    sequences=st.integers(1, 10_000),
)
def test_every_rule_gives_a_share_whatever_it_sees(
    rule: str, d: float, log_weight: float, truncated: Moments, raw: Moments, sequences: int
) -> None:
    mismatch = Mismatch(sequences, d, truncated, raw, log_weight)
    terms = MixingTerms(
        severity(mismatch, DEFAULT),
        reliability(mismatch, DEFAULT),
        amplification(mismatch, DEFAULT),
        guard(mismatch, DEFAULT),
    )
    alpha = RULES[rule](mismatch, terms, DEFAULT)
    assert 0.0 <= alpha <= 1.0
    if rule in KEEP_THE_FLOOR:
        assert alpha <= terms.reliability


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"constant", "effective_sample", "amplification"}))
def test_rules_that_measure_the_mismatch_leave_identical_policies_alone(rule: str) -> None:
    assert plan_and_weights(17, 0.0, rule=rule)[0].alpha == 0.0


def test_a_schedule_is_a_constant_rule_whose_state_passes_to_the_next_step() -> None:
    batch = SequenceBatch.packed(
        torch.randn(34, generator=torch.Generator().manual_seed(0)) * 0.1, torch.tensor([17, 17])
    )
    state = None
    for step, alpha_max in enumerate((0.0, 0.5, 1.0)):
        correction = ais_core.build(CorrectionSettings(mixing=MixingSettings(rule="constant", alpha_max=alpha_max)))
        plan, state = correction.plan(correction.measure(batch), state)
        assert plan.alpha == alpha_max, step
