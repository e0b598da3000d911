"""Hand-over: AIS on short answers, token ratios on long ones, and a share that is never corrected."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ais_core
from ais_core import CorrectionSettings, MixingSettings, Plan, SequenceBatch, SettingError
from ais_core.settings import Rule

LENGTHS = (16, 512, 4096, 16384)


def heavy(lengths: list[int], scale: float = 1.0, seed: int = 0) -> SequenceBatch:
    """Ratios of mean 1, one in ten of them four times as far off as the others; D = .02 at scale 1."""
    generator = torch.Generator().manual_seed(seed)
    deviation = torch.where(torch.rand(sum(lengths), generator=generator) < 0.1, 0.077, 0.0193) * scale
    logs = torch.randn(sum(lengths), generator=generator) * deviation - deviation.square() / 2
    return SequenceBatch.packed(logs, torch.tensor(lengths))


def handed_over(batch: SequenceBatch, **mixing: object) -> tuple[Plan, torch.Tensor]:
    settings = CorrectionSettings(method="handover", mixing=MixingSettings(evaluation="same_batch", **mixing))
    correction = ais_core.build(settings)
    plan, _ = correction.plan(correction.measure(batch), None)
    return plan, correction.weights(batch, None, plan).double()


@pytest.mark.parametrize("scale", [0.25, 5.0])
def test_what_tokens_are_corrected_by_does_not_wait_for_a_severe_mismatch(scale: float) -> None:
    """At D = .005 the default calls 16,384 tokens noise, though their sequences are nats apart."""
    plan, _ = handed_over(heavy([16384] * 8, scale))
    assert plan.effect is not None
    assert plan.effect.slope >= 0.4


def test_one_long_answer_among_short_ones_carries_no_sequence_weights_and_is_corrected_by_tokens() -> None:
    plan, weights = handed_over(heavy([16384, *[16] * 255]))
    assert plan.alpha is not None
    assert plan.effect is not None
    assert plan.alpha < 0.1
    assert plan.effect.slope >= 0.4
    assert ess_ratio(weights) >= 0.5


def ess_ratio(weights: torch.Tensor) -> float:
    return float(weights.sum() ** 2 / (weights.numel() * weights.square().sum()))


@pytest.mark.parametrize("asked", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_weight_is_that_of_the_formula(asked: float, share: float) -> None:
    lengths = [3, 0, 40, 17]
    batch = heavy(lengths, scale=4.0)
    plan, weights = handed_over(batch, rule="constant", alpha_max=asked, uncorrected_share=share)
    logs = batch.log_ratio.double()
    owner = torch.arange(4).repeat_interleave(torch.tensor(lengths))
    whole = torch.zeros(4, dtype=torch.float64).index_add_(0, owner, logs.clamp(max=math.log(2)))
    sequence = whole.exp().clamp(max=2.0)[owner]
    alpha = asked * min(float(sequence.mean()), 1.0)
    expected = share + (1 - share) * ((1 - alpha) * logs.exp().clamp(max=2.0) + alpha * sequence)
    assert plan.alpha == pytest.approx(alpha, rel=1e-5)
    assert plan.corrected == pytest.approx(1 - share)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_token_is_corrected_at_every_length(length: int) -> None:
    """The default's slope goes from .42 at 16 tokens to .00 at 16,384."""
    batch = heavy([length] * 64)
    plan, weights = handed_over(batch)
    assert plan.effect is not None
    assert plan.effect.slope >= 0.4
    assert plan.effect.share >= 0.4
    assert plan.effect.mean_weight == pytest.approx(1.0, abs=0.1)
    assert float(weights.mean()) == pytest.approx(plan.effect.mean_weight, rel=1e-4)
    assert "uncorrected" not in plan.concerns


@given(
    lengths=st.lists(st.integers(0, 200) | st.sampled_from([1, 1000, 3000]), min_size=1, max_size=12),
    mismatch=st.floats(0.0, 3.0),
    shift=st.floats(-1.0, 1.0),
    outlier=st.sampled_from([0.0, 5.0, -5.0, 1e4, -1e4]),
    floor=st.sampled_from([0.2, 0.5, 0.9]),
    share=st.sampled_from([0.0, 0.25]),
    rule=st.sampled_from(["plateau", "constant"]),
)
def test_the_floor_on_the_effective_sample_holds_with_any_rule(
    lengths: list[int], mismatch: float, shift: float, outlier: float, floor: float, share: float, rule: Rule
) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    logs = torch.randn(sum(lengths), generator=generator) * mismatch + shift * mismatch
    logs[: len(logs) // 7] += outlier
    batch = SequenceBatch.packed(logs, torch.tensor(lengths))
    plan, weights = handed_over(batch, effective_sample_floor=floor, uncorrected_share=share, rule=rule)
    assert bool(weights.isfinite().all())
    assert 0.0 <= plan.corrected <= 1.0 - share
    if sum(lengths):
        assert ess_ratio(weights) >= floor - 1e-6
        assert plan.effective_sample_ratio <= ess_ratio(weights) + 1e-5


@given(share=st.floats(0.0, 1.0), scale=st.floats(0.0, 60.0))
def test_no_token_is_weighed_less_than_the_share_left_uncorrected(share: float, scale: float) -> None:
    _, weights = handed_over(heavy([50] * 20, scale), uncorrected_share=share)
    assert float(weights.min()) >= share - 1e-6


def test_at_the_ends_it_is_the_methods_that_it_lies_between() -> None:
    batch = heavy([30] * 40, scale=5.0)

    def weights(settings: CorrectionSettings) -> torch.Tensor:
        correction = ais_core.build(settings)
        plan, _ = correction.plan(correction.measure(batch), None)
        return correction.weights(batch, None, plan).double()

    def end(alpha: float, share: float) -> torch.Tensor:
        # The floor is out of the way: it is the other test's.
        return handed_over(
            batch, rule="constant", alpha_max=alpha, uncorrected_share=share, effective_sample_floor=0.01
        )[1]

    torch.testing.assert_close(end(0.5, 1.0), weights(CorrectionSettings(method="none")))
    torch.testing.assert_close(end(0.0, 0.0), weights(CorrectionSettings(method="tis", level="token")))


@pytest.mark.parametrize("length", [64, 2048])
def test_a_memory_of_batches_keeps_alpha_still(length: int) -> None:
    """Among 64 sequences one raw weight far out moves alpha; the average of ten batches moves a quarter as much."""

    def spread(memory: float) -> float:
        mixing = MixingSettings(memory=memory)
        correction = ais_core.build(CorrectionSettings(method="handover", mixing=mixing))
        state, alphas = None, []
        for seed in range(40):
            plan, state = correction.plan(correction.measure(heavy([length] * 64, seed=seed)), state)
            alphas.append(plan.alpha)
        return float(torch.tensor(alphas[20:]).std())

    assert spread(0.9) < 0.03
    assert spread(0.9) < 0.6 * spread(0.0)


def test_beyond_the_mismatch_limit_nothing_is_corrected() -> None:
    plan, weights = handed_over(SequenceBatch.packed(torch.full((64,), -4.8), torch.full((4,), 16)))
    assert (plan.alpha, plan.corrected, plan.trusted) == (0.0, 0.0, False)
    assert bool((weights == 1).all())


def test_the_branches_add_up_to_the_weights() -> None:
    batch = heavy([30] * 8, scale=5.0)
    correction = ais_core.build(CorrectionSettings(method="handover", mixing=MixingSettings(evaluation="same_batch")))
    plan, _ = correction.plan(correction.measure(batch), None)
    corrected, rest = correction.branches(batch, None, plan)
    torch.testing.assert_close(corrected + rest, correction.weights(batch, None, plan))
    torch.testing.assert_close(rest, torch.full_like(rest, 1 - plan.corrected))


def test_settings_that_belong_to_another_method_are_refused() -> None:
    with pytest.raises(SettingError, match="uncorrected_share"):
        CorrectionSettings(method="handover", mixing=MixingSettings(uncorrected_bound=4.0))
    with pytest.raises(SettingError, match="adaptive"):
        CorrectionSettings(method="handover", level="adaptive")
    with pytest.raises(SettingError, match="uncorrected_share"):
        MixingSettings(uncorrected_share=1.5)
