"""Every correction against its definition in plain float64, and the invariances that make it trustworthy."""

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ais_core
from ais_core import (
    CorrectionSettings,
    MixingSettings,
    NonFiniteError,
    RejectionSettings,
    SequenceBatch,
    SettingError,
    ShapeError,
    StateError,
)
from ais_core.settings import MIXING

SAME_BATCH = MixingSettings(evaluation="same_batch")
EVERY = [
    CorrectionSettings(method="none"),
    CorrectionSettings(method="tis"),
    CorrectionSettings(
        method="tis", level="sequence", rejections=(RejectionSettings("k3", "sequence_max", upper=1.0),)
    ),
    CorrectionSettings(method="tis", level="prefix", truncate_tokens=True),
    CorrectionSettings(method="tis", level="geometric"),
    CorrectionSettings(method="tis", level="tempered", temper=0.3),
    CorrectionSettings(method="mis"),
    CorrectionSettings(method="icepop"),
    CorrectionSettings(method="sequence_mask"),
    CorrectionSettings(method="geometric_mask"),
    CorrectionSettings(method="k1", over="sequence_mean", upper=0.05),
    CorrectionSettings(method="k2"),
    CorrectionSettings(method="k3", over="sequence_sum"),
    CorrectionSettings(method="opsm"),
    CorrectionSettings(method="m2po"),
    CorrectionSettings(method="vcpo"),
    CorrectionSettings(method="ais", mixing=SAME_BATCH),
    CorrectionSettings(method="ais", level="adaptive", mixing=SAME_BATCH),
    CorrectionSettings(method="ais", mixing=MixingSettings(evaluation="same_batch", uncorrected_bound=4.0)),
    CorrectionSettings(method="handover", mixing=SAME_BATCH),
    CorrectionSettings(method="handover", level="prefix", mixing=SAME_BATCH),
    CorrectionSettings(method="tis", level="sequence", self_normalised=True),
    CorrectionSettings(method="ais", self_normalised=True, mixing=SAME_BATCH),
]


def make(lengths: list[int], mismatch: float, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Log-ratios by sequence, and an advantage for each."""
    generator = torch.Generator().manual_seed(seed)
    logs = [torch.randn(n, generator=generator) * mismatch - mismatch**2 / 2 for n in lengths]
    return logs, torch.randn(len(lengths), generator=generator)


def packed(logs: list[Tensor], **options: Any) -> SequenceBatch:
    return SequenceBatch.packed(torch.cat([*logs, torch.zeros(0)]), torch.tensor([len(x) for x in logs]), **options)


def weigh(settings: CorrectionSettings, logs: list[Tensor], advantages: Tensor) -> list[Tensor]:
    correction, batch = ais_core.build(settings), packed(logs)
    plan, _ = correction.plan(correction.measure(batch, advantages), None)
    return list(correction.weights(batch, advantages, plan).split([len(x) for x in logs]))


lengths_strategy = st.lists(st.integers(0, 40), min_size=1, max_size=12)
mismatches = st.sampled_from([0.0, 1e-3, 0.03, 0.3, 2.0, 30.0])


# Definitions.


@pytest.mark.parametrize("mismatch", [0.05, 0.6])
def test_weights_are_those_of_the_definitions(mismatch: float) -> None:
    logs, advantages = make([1, 5, 17, 30], mismatch)
    for logs_i, _, got in _by_sequence(CorrectionSettings(method="tis"), logs, advantages):
        torch.testing.assert_close(got, logs_i.exp().clamp(max=2.0))
    for logs_i, _, got in _by_sequence(CorrectionSettings(method="tis", level="sequence"), logs, advantages):
        torch.testing.assert_close(got, logs_i.sum().exp().clamp(max=2.0).expand_as(got))
    tis_prefix = CorrectionSettings(method="tis", level="prefix", truncate_tokens=True)
    for logs_i, _, got in _by_sequence(tis_prefix, logs, advantages):
        torch.testing.assert_close(got, logs_i.clamp(max=math.log(2)).cumsum(0).exp().clamp(max=2.0), rtol=1e-5, atol=0)
    for logs_i, _, got in _by_sequence(CorrectionSettings(method="tis", level="geometric"), logs, advantages):
        torch.testing.assert_close(got, logs_i.mean().exp().clamp(max=2.0).expand_as(got))
    tempered = CorrectionSettings(method="tis", level="tempered", temper=0.25)
    for logs_i, _, got in _by_sequence(tempered, logs, advantages):
        torch.testing.assert_close(got, (logs_i.sum() / 4).exp().clamp(max=2.0).expand_as(got))
    for logs_i, _, got in _by_sequence(CorrectionSettings(method="icepop"), logs, advantages):
        ratio = logs_i.exp()
        torch.testing.assert_close(got, torch.where((ratio >= 0.5) & (ratio <= 5), ratio, 0.0))
    for logs_i, _, got in _by_sequence(CorrectionSettings(method="sequence_mask"), logs, advantages):
        assert torch.equal(got, (logs_i.sum().exp() <= 3.0).float().expand_as(got))
    for logs_i, _, got in _by_sequence(CorrectionSettings(method="geometric_mask"), logs, advantages):
        assert torch.equal(got, (0.999 <= logs_i.mean().exp() <= 1.001) * torch.ones_like(got))
    for logs_i, _, got in _by_sequence(CorrectionSettings(method="k1", upper=0.1), logs, advantages):
        assert torch.equal(got, (-logs_i <= 0.1).float())
    k3_max = CorrectionSettings(method="k3", over="sequence_max", upper=0.1)
    for logs_i, _, got in _by_sequence(k3_max, logs, advantages):
        assert torch.equal(got, ((logs_i.exp() - 1 - logs_i).max() <= 0.1) * torch.ones_like(got))
    k2_mean = CorrectionSettings(method="k2", over="sequence_mean", upper=0.01)
    for logs_i, _, got in _by_sequence(k2_mean, logs, advantages):
        assert torch.equal(got, ((logs_i.square() / 2).mean() <= 0.01) * torch.ones_like(got))
    for logs_i, a, got in _by_sequence(CorrectionSettings(method="opsm"), logs, advantages):
        assert torch.equal(got, (not (a < 0 and -logs_i.mean() > 1e-4)) * torch.ones_like(got))


def _by_sequence(settings: CorrectionSettings, logs: list[Tensor], advantages: Tensor) -> list[tuple[Tensor, ...]]:
    return list(zip(logs, advantages, weigh(settings, logs, advantages), strict=True))


def test_m2po_masks_only_offending_tokens_the_largest_first_until_the_limit_holds() -> None:
    logs, advantages = make([200] * 8, 0.4)
    weights = torch.cat(weigh(CorrectionSettings(method="m2po"), logs, advantages))
    correction = ais_core.build(CorrectionSettings(method="m2po"))
    plan, _ = correction.plan(correction.measure(packed(logs), advantages), None)
    assert plan.diagnostics is not None
    assert plan.diagnostics.kept_share == pytest.approx(float(weights.mean()))
    flat = torch.cat(logs)
    offending = flat * advantages.repeat_interleave(200) > 0
    squares = flat.square()
    kept, dropped = offending & (weights == 1), weights == 0
    assert not (dropped & ~offending).any()
    assert squares[kept].max() <= squares[dropped].min()
    assert squares[kept].mean() <= 0.04
    # One more bin of a quarter octave would have broken the limit.
    edge = squares[dropped].min() * (1 + 1 / 64) ** 2
    assert squares[offending & (squares < edge)].mean() > 0.0395


@pytest.mark.parametrize("limit", [1e-4, 0.04, 0.3])
@pytest.mark.parametrize("mismatch", [0.02, 0.4, 2.0])
def test_m2po_masks_what_the_greedy_rule_masks_and_at_most_a_fine_bin_more(limit: float, mismatch: float) -> None:
    logs, advantages = make([400] * 12, mismatch, seed=5)
    correction = ais_core.build(CorrectionSettings(method="m2po", upper=limit))
    batch = packed(logs)
    plan, _ = correction.plan(correction.measure(batch, advantages), None)
    dropped = correction.weights(batch, advantages, plan) == 0
    flat = torch.cat(logs)
    squares = flat[flat * advantages.repeat_interleave(400) > 0].double().square().sort().values
    means = squares.cumsum(0) / torch.arange(1, len(squares) + 1)
    exact = len(squares) - int((means <= limit).sum())
    assert exact <= int(dropped.sum()) <= exact + 0.02 * len(squares) + 1


@pytest.mark.parametrize(
    "settings",
    [
        CorrectionSettings(method="none"),
        CorrectionSettings(method="sequence_mask"),
        CorrectionSettings(method="icepop"),
        CorrectionSettings(method="tis", level="sequence", rejections=(RejectionSettings(upper=1.5),)),
        CorrectionSettings(method="ais", rejections=(RejectionSettings(upper=1.5),), mixing=SAME_BATCH),
    ],
)
def test_the_effective_sample_reported_is_that_of_the_weights_applied(settings: CorrectionSettings) -> None:
    logs, advantages = make([16] * 40, 0.2)
    weights = torch.cat(weigh(settings, logs, advantages)).double()
    correction = ais_core.build(settings)
    plan, _ = correction.plan(correction.measure(packed(logs), advantages), None)
    ess_ratio = float(weights.sum() ** 2 / (weights.numel() * weights.square().sum()))
    assert plan.diagnostics is not None
    assert plan.diagnostics.kept_share == pytest.approx(float((weights > 0).double().mean()), abs=0.02)
    if settings.method != "ais":
        assert plan.effective_sample_ratio == pytest.approx(ess_ratio, rel=1e-4)


@pytest.mark.parametrize("base", [1.0, 0.6])
def test_vcpo_scales_the_learning_rate_by_the_root_of_the_effective_sample_of_raw_sequence_ratios(base: float) -> None:
    logs, _ = make([4, 16, 9, 31] * 16, 0.2)
    correction = ais_core.build(CorrectionSettings(method="vcpo", learning_rate_base=base))
    plan, _ = correction.plan(correction.measure(packed(logs)), None)
    ratios = torch.stack([x.double().sum().exp() for x in logs])
    ess_ratio = float(ratios.sum() ** 2 / (64 * ratios.square().sum()))
    assert float(ratios.max()) > 2.0
    assert plan.learning_rate_scale == pytest.approx(math.sqrt(min(1.0, ess_ratio / base)), rel=1e-5)


def test_the_bounded_uncorrected_branch_is_min_1_and_four_times_the_ratio() -> None:
    logs = [torch.tensor([-3.0, 0.0, 1.0])]
    mixing = MixingSettings(rule="constant", alpha_max=0.0, uncorrected_bound=4.0)
    (weights,) = weigh(CorrectionSettings(mixing=mixing), logs, torch.ones(1))
    torch.testing.assert_close(weights, torch.tensor([4 * math.exp(-3), 1.0, 1.0]))


@pytest.mark.parametrize(
    "settings",
    [
        CorrectionSettings(method="tis"),
        CorrectionSettings(method="tis", level="prefix"),
        CorrectionSettings(method="icepop"),
        CorrectionSettings(method="tis", level="sequence", rejections=(RejectionSettings(upper=1.5),)),
        CorrectionSettings(method="ais", mixing=SAME_BATCH),
        CorrectionSettings(method="ais", level="adaptive", mixing=SAME_BATCH),
        CorrectionSettings(method="ais", rejections=(RejectionSettings(upper=1.5),), mixing=SAME_BATCH),
        CorrectionSettings(method="handover", mixing=SAME_BATCH),
    ],
    ids=lambda s: f"{s.method}-{s.weight_level}",
)
@pytest.mark.parametrize("mismatch", [0.1, 1.0])
def test_self_normalised_weights_are_the_plain_ones_divided_by_their_mean(
    settings: CorrectionSettings, mismatch: float
) -> None:
    logs, advantages = make([3, 0, 40, 17, 9] * 8, mismatch)
    plain = torch.cat(weigh(settings, logs, advantages)).double()
    normalised = dataclasses.replace(settings, self_normalised=True)
    correction = ais_core.build(normalised)
    plan, _ = correction.plan(correction.measure(packed(logs), advantages), None)
    got = correction.weights(packed(logs), advantages, plan)
    assert plan.diagnostics is not None
    kept = plan.diagnostics.kept_share * plain.numel()
    torch.testing.assert_close(got.double(), plain / plain.sum() * kept, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(got.double(), plain, rtol=1e-3)
    torch.testing.assert_close(sum(correction.branches(packed(logs), advantages, plan)), got)
    if plan.effect is not None:
        assert plan.effect.mean_weight == pytest.approx(plan.diagnostics.kept_share)


def test_the_mean_that_normalises_is_that_of_the_batch_also_where_alpha_is_that_of_the_batch_before() -> None:
    correction = ais_core.build(CorrectionSettings(self_normalised=True))
    first, second = (packed(make([17] * 64, mismatch)[0]) for mismatch in (0.05, 0.5))
    plan1, state = correction.plan(correction.measure(first), None)
    assert correction.needs_current_sums(state)
    plan2, _ = correction.plan(correction.measure(second), state)
    assert plan2.alpha == plan1.alpha
    assert float(correction.weights(second, None, plan2).mean()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("settings", [CorrectionSettings(method="tis", level="sequence"), CorrectionSettings()])
def test_weights_that_are_no_evidence_are_not_blown_up(settings: CorrectionSettings) -> None:
    """All alike because they are clamped: normalised, they would be 1."""
    logs = [torch.full((2_048,), -0.05)] * 8
    normalised = dataclasses.replace(settings, self_normalised=True)
    for got, plain in zip(weigh(normalised, logs, torch.ones(8)), weigh(settings, logs, torch.ones(8)), strict=True):
        assert torch.equal(got, plain)


def test_what_has_no_mean_to_divide_by_cannot_be_normalised() -> None:
    with pytest.raises(SettingError, match="nothing to normalise"):
        CorrectionSettings(method="none", self_normalised=True)
    with pytest.raises(SettingError, match="uncorrected_bound"):
        CorrectionSettings(mixing=MixingSettings(uncorrected_bound=4.0), self_normalised=True)


# Properties of all of them.


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: f"{s.method}-{s.weight_level}")
def test_identical_policies_are_not_corrected(settings: CorrectionSettings) -> None:
    logs, advantages = make([3, 0, 12], 0.0)
    correction = ais_core.build(settings)
    plan, _ = correction.plan(correction.measure(packed(logs), advantages), None)
    assert all(torch.equal(w, torch.ones_like(w)) for w in weigh(settings, logs, advantages))
    assert plan.diagnostics is not None
    assert plan.diagnostics.token_ess_ratio == plan.diagnostics.sequence_ess_ratio == 1.0
    assert plan.diagnostics.weight_ess_ratio == 1.0
    if settings.method in MIXING:
        assert plan.alpha == 0.0


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: f"{s.method}-{s.weight_level}")
@given(lengths=lengths_strategy, mismatch=mismatches, seed=st.integers(0, 99))
def test_weights_are_finite_bounded_detached_and_float32(
    settings: CorrectionSettings, lengths: list[int], mismatch: float, seed: int
) -> None:
    logs, advantages = make(lengths, mismatch, seed)
    for weights in weigh(settings, [x.requires_grad_() for x in logs], advantages):
        assert weights.dtype == torch.float32
        assert not weights.requires_grad
        assert bool(weights.isfinite().all())
        assert bool((weights >= 0).all())
        most = 5.0 if settings.method in ("mis", "icepop") else 2.0
        if not settings.self_normalised:
            assert bool((weights <= most + 1e-5).all())


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: f"{s.method}-{s.weight_level}")
@given(data=st.data(), lengths=lengths_strategy, mismatch=mismatches)
def test_microbatches_ranks_and_order_do_not_change_the_result(
    settings: CorrectionSettings, data: st.DataObject, lengths: list[int], mismatch: float
) -> None:
    logs, advantages = make(lengths, mismatch)
    correction = ais_core.build(settings)
    whole = correction.measure(packed(logs), advantages)
    order = data.draw(st.permutations(range(len(logs))))
    cut = data.draw(st.integers(0, len(logs)))
    parts = [[logs[i] for i in order[:cut]], [logs[i] for i in order[cut:]]]
    signs = [advantages[order[:cut]], advantages[order[cut:]]]
    sums = sum(correction.measure(packed(part), a) for part, a in zip(parts, signs, strict=True))
    torch.testing.assert_close(sums, whole, rtol=1e-4, atol=1e-4)
    plan, plan_of_parts = correction.plan(whole, None)[0], correction.plan(sums, None)[0]
    assert (plan.alpha is None) == (settings.method not in MIXING)
    if plan.alpha is not None:
        assert plan_of_parts.alpha == pytest.approx(plan.alpha, rel=1e-4, abs=1e-6)
    together = weigh(settings, logs, advantages)
    apart = [
        w
        for part, a in zip(parts, signs, strict=True)
        for w in correction.weights(packed(part), a, plan_of_parts).split([len(x) for x in part])
    ]
    for place, i in enumerate(order):
        torch.testing.assert_close(apart[place], together[i], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: f"{s.method}-{s.weight_level}")
@given(lengths=lengths_strategy, mismatch=mismatches)
def test_padding_and_masks_do_not_change_the_result(
    settings: CorrectionSettings, lengths: list[int], mismatch: float
) -> None:
    logs, advantages = make(lengths, mismatch)
    width = max(lengths) + 2
    rows, mask = torch.full((len(lengths), width), torch.nan), torch.zeros(len(lengths), width, dtype=torch.bool)
    for i, x in enumerate(logs):
        rows[i, 1 : 1 + len(x)], mask[i, 1 : 1 + len(x)] = x, True
    flat = SequenceBatch.packed(rows.flatten(), torch.full((len(lengths),), width), mask=mask.flatten())
    correction = ais_core.build(settings)
    expected = correction.measure(packed(logs), advantages)
    for batch in (SequenceBatch.padded(rows, mask), flat):
        sums = correction.measure(batch, advantages)
        assert torch.equal(sums, expected)
        plan, _ = correction.plan(sums, None)
        weights = correction.weights(batch, advantages, plan).reshape(rows.shape)
        assert not weights[~mask].any()
        torch.testing.assert_close(weights[mask], torch.cat([*weigh(settings, logs, advantages), torch.zeros(0)]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("settings", EVERY, ids=lambda s: f"{s.method}-{s.weight_level}")
def test_inputs_of_any_dtype_layout_and_with_gradients_give_what_float32_gives(
    settings: CorrectionSettings, dtype: torch.dtype
) -> None:
    logs, advantages = make([1, 12, 0, 7], 0.3)
    flat = torch.cat(logs).to(dtype)
    every_other = torch.stack([flat, torch.full_like(flat, torch.nan)], 1).flatten()[::2].requires_grad_()
    assert not every_other.is_contiguous()
    lengths = torch.tensor([1, 12, 0, 7], dtype=torch.int32)
    correction = ais_core.build(settings)
    batch = SequenceBatch.packed(every_other, lengths)
    expected = packed([x.to(dtype).float() for x in logs])
    sums = correction.measure(batch, advantages.double().requires_grad_())
    assert torch.equal(sums, correction.measure(expected, advantages))
    plan, _ = correction.plan(sums, None)
    weights = correction.weights(batch, advantages.double().requires_grad_(), plan)
    assert torch.equal(weights, correction.weights(expected, advantages, plan))
    assert not weights.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_log_probs_of_any_dtype_are_subtracted_in_float32(dtype: torch.dtype) -> None:
    proximal, behaviour = torch.randn(2, 9).to(dtype).requires_grad_().unbind()
    ratio = ais_core.log_ratio(proximal, behaviour)
    assert ratio.dtype == torch.float32
    assert not ratio.requires_grad
    torch.testing.assert_close(ratio, (proximal.float() - behaviour.float()).detach())


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    logs, advantages = make([50, 0, 3, 70, 20], 0.3)
    settings = CorrectionSettings(level="adaptive", mixing=SAME_BATCH)
    whole = weigh(settings, logs, advantages)
    monkeypatch.setattr("ais_core.ratios.CHUNK_TOKENS", 64)
    for got, expected in zip(weigh(settings, logs, advantages), whole, strict=True):
        torch.testing.assert_close(got, expected)


# State.


def test_the_previous_batch_decides_and_recall_says_the_same_as_plan() -> None:
    correction = ais_core.build(CorrectionSettings())
    first, second = (packed(make([17] * 64, mismatch)[0]) for mismatch in (0.05, 0.5))
    assert correction.needs_current_sums(None)
    plan1, state = correction.plan(correction.measure(first), None)
    assert not correction.needs_current_sums(state)
    recalled = correction.recall(state)
    plan2, state2 = correction.plan(correction.measure(second), state)
    assert recalled.alpha == plan2.alpha == plan1.alpha
    assert torch.equal(correction.weights(second, None, recalled), correction.weights(second, None, plan2))
    assert plan2.diagnostics is not None
    assert plan2.diagnostics.mean_abs_log_ratio > 0.3
    assert correction.recall(state2).alpha != plan1.alpha


def test_a_state_survives_json_and_memory_averages_batches() -> None:
    correction = ais_core.build(CorrectionSettings(mixing=MixingSettings(memory=0.5)))
    sums = [correction.measure(packed(make([17] * 64, mismatch)[0])) for mismatch in (0.02, 0.04)]
    _, state = correction.plan(sums[0], None)
    _, state = correction.plan(sums[1], json.loads(json.dumps(state)))
    averaged = ais_core.build(CorrectionSettings(mixing=SAME_BATCH)).plan((sums[0] + sums[1]) / 2, None)[0]
    assert correction.recall(json.loads(json.dumps(state))).alpha == pytest.approx(averaged.alpha)


@pytest.mark.parametrize("memory", [0.0, 0.5])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_a_batch_without_tokens_leaves_the_state_and_the_next_alpha_as_they_were(
    memory: float, lengths: list[int]
) -> None:
    correction = ais_core.build(CorrectionSettings(mixing=MixingSettings(memory=memory)))
    empty = correction.measure(packed([torch.zeros(n) for n in lengths]))
    assert correction.plan(empty, None)[1] is None
    _, state = correction.plan(correction.measure(packed(make([17] * 64, 0.1)[0])), None)
    before = correction.recall(state)
    plan, after = correction.plan(empty, state)
    assert after == state
    assert plan.alpha == before.alpha == correction.recall(after).alpha
    assert before.alpha is not None
    assert before.alpha > 0.5


def test_a_foreign_state_or_a_plan_before_the_first_measurement_is_refused() -> None:
    correction = ais_core.build(CorrectionSettings())
    with pytest.raises(StateError, match="measure"):
        correction.recall(None)
    _, state = correction.plan(correction.measure(packed(make([17] * 4, 0.1)[0])), None)
    for values in ([1.0], [None] * len(state["sums"]), [math.nan, *state["sums"][1:]], "sums"):
        with pytest.raises(StateError, match="start with None"):
            correction.recall({"sums": values})
    with pytest.raises(StateError, match="start with None"):
        correction.plan(correction.measure(packed([torch.zeros(2)])), {})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_sums_that_are_not_finite_are_refused(bad: float) -> None:
    correction = ais_core.build(CorrectionSettings())
    sums = correction.measure(packed([torch.zeros(2)]))
    with pytest.raises(NonFiniteError, match="ranks"):
        correction.plan(sums + bad, None)


# Borders.


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, torch.finfo(torch.float32).min, 1e30])
def test_a_non_finite_log_ratio_raises_or_is_left_out_and_counted(bad: float) -> None:
    logs = torch.tensor([0.1, bad, 0.2, 0.3])
    lengths = torch.tensor([2, 2])
    with pytest.raises(NonFiniteError, match="1 of 4"):
        SequenceBatch.packed(logs, lengths)
    batch = SequenceBatch.packed(logs, lengths, non_finite="mask")
    correction = ais_core.build(CorrectionSettings(mixing=SAME_BATCH))
    plan, _ = correction.plan(correction.measure(batch), None)
    assert plan.diagnostics is not None
    assert plan.diagnostics.non_finite_tokens == 1
    assert plan.diagnostics.tokens == 3
    weights = correction.weights(batch, None, plan)
    assert weights[1] == 0
    assert bool((weights[[0, 2, 3]] > 0).all())


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: f"{s.method}-{s.weight_level}")
@pytest.mark.parametrize("extreme", [[1e4, -1e4, 0.1, 1e4], [-1e4] * 4, [1e4] * 4, [1e9, -1e9, 0.0, 0.1], [88.0] * 4])
@pytest.mark.parametrize("lengths", [[4], [2, 0, 2], [1, 1, 1, 1]])
def test_extreme_log_ratios_leave_no_nan_anywhere(
    settings: CorrectionSettings, extreme: list[float], lengths: list[int]
) -> None:
    correction, advantages = ais_core.build(settings), torch.ones(len(lengths))
    batch = SequenceBatch.packed(torch.tensor(extreme), torch.tensor(lengths))
    plan, _ = correction.plan(correction.measure(batch, advantages), None)
    assert bool(correction.weights(batch, advantages, plan).isfinite().all())
    if settings.method in MIXING:
        assert (plan.alpha, plan.trusted) == (0.0, False)
    unknown = {"sequence_tail_index"}  # too few sequences
    if plan.diagnostics is not None and plan.diagnostics.weight_mean == 0.0:
        unknown.add("weight_cv")  # nothing is applied
    assert {n for n, v in vars_of(plan.diagnostics).items() if isinstance(v, float) and math.isnan(v)} <= unknown


def vars_of(diagnostics: object) -> dict[str, object]:
    return {field.name: getattr(diagnostics, field.name) for field in dataclasses.fields(diagnostics)}


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: f"{s.method}-{s.weight_level}")
@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_a_batch_without_tokens_is_planned_and_weighed(settings: CorrectionSettings, lengths: list[int]) -> None:
    correction = ais_core.build(settings)
    batch = packed([torch.zeros(n) for n in lengths])
    advantages = torch.ones(len(lengths))
    plan, _ = correction.plan(correction.measure(batch, advantages), None)
    assert plan.diagnostics is not None
    assert plan.diagnostics.empty_sequences == len(lengths)
    assert correction.weights(batch, advantages, plan).numel() == 0
    rows = torch.full((len(lengths), 3), torch.nan)
    masked = SequenceBatch.padded(rows, torch.zeros(rows.shape, dtype=torch.bool))
    assert torch.equal(correction.measure(masked, advantages), correction.measure(batch, advantages))
    assert not correction.weights(masked, advantages, plan).any()


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: f"{s.method}-{s.weight_level}")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("per_token", [False, True])
def test_advantages_that_are_not_finite_are_refused(settings: CorrectionSettings, bad: float, per_token: bool) -> None:
    correction, batch = ais_core.build(settings), packed([torch.zeros(3), torch.zeros(2)])
    advantages = torch.tensor([1.0, bad])
    plan, _ = correction.plan(correction.measure(batch, torch.ones(2)), None)
    if per_token:
        advantages = advantages.repeat_interleave(torch.tensor([3, 2]))
    for call in (correction.measure, lambda b, a: correction.weights(b, a, plan)):
        with pytest.raises(NonFiniteError, match="advantages"):
            call(batch, advantages)


def test_advantages_of_padding_may_be_anything() -> None:
    rows, mask = torch.zeros(2, 3), torch.tensor([[True, True, False], [True, False, False]])
    correction = ais_core.build(CorrectionSettings(method="opsm"))
    correction.measure(SequenceBatch.padded(rows, mask), torch.where(mask, 1.0, math.nan))


@pytest.mark.parametrize(
    "lag", [[0.0, 1.5, 2.0], [0.0, math.nan, 1.0], [0.0, 1.0, 2.0], [0, -1, 2], [-(2**40), 0, 0], [True, False, True]]
)
def test_version_lags_that_count_no_versions_are_refused(lag: list[float]) -> None:
    logs, lengths = torch.zeros(3), torch.tensor([3])
    with pytest.raises(ShapeError, match="version lags"):
        SequenceBatch.packed(logs, lengths, torch.tensor(lag))
    with pytest.raises(ShapeError, match="version lags"):
        SequenceBatch.padded(logs[None], torch.ones(1, 3, dtype=torch.bool), torch.tensor(lag)[None])


def test_version_lags_of_padding_may_be_anything() -> None:
    rows, mask = torch.zeros(1, 3), torch.tensor([[True, True, False]])
    batch = SequenceBatch.padded(rows, mask, torch.tensor([[0, 2, -7]]))
    assert batch.version_lag is not None
    assert batch.version_lag.tolist() == [0, 2]


def test_tensors_without_values_or_of_another_layout_are_refused_by_name() -> None:
    meta, real, lengths = torch.zeros(3, device="meta"), torch.zeros(3), torch.tensor([3])
    for call, match in (
        (lambda: ais_core.log_ratio(real, meta), "behaviour is on the meta device"),
        (lambda: SequenceBatch.packed(meta, lengths), "log_ratio is on the meta device"),
        (lambda: SequenceBatch.packed(real, lengths.to("meta")), "meta"),
        (lambda: SequenceBatch.packed(real, lengths, mask=meta.bool()), "mask is on the meta device"),
        (lambda: SequenceBatch.padded(meta[None], meta.bool()[None]), "log_ratio is on the meta device"),
        (lambda: SequenceBatch.packed(real.to_sparse(), lengths), "sparse"),
        (lambda: ais_core.summarize(torch.zeros(3, device="meta")), "sums"),
        (lambda: ais_core.advantages.grpo(meta, torch.zeros(3, device="meta")), "meta"),
    ):
        with pytest.raises(ShapeError, match=match):
            call()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="add up to 3"):
        SequenceBatch.packed(torch.zeros(3), torch.tensor([2]))
    with pytest.raises(ShapeError, match="integers"):
        SequenceBatch.packed(torch.zeros(3), torch.tensor([1.5, 1.5]))
    with pytest.raises(ShapeError, match="mask"):
        SequenceBatch.packed(torch.zeros(3), torch.tensor([3]), mask=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ShapeError, match="behaviour"):
        ais_core.log_ratio(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ShapeError, match="advantages"):
        ais_core.build(CorrectionSettings(method="opsm")).measure(packed([torch.zeros(3)]))
    with pytest.raises(ShapeError, match="sums"):
        ais_core.summarize(torch.zeros(3))


def test_settings_that_mean_nothing_are_refused() -> None:
    for settings in (
        {"cap": 0.5},
        {"method": "tis", "upper": 3.0},
        {"method": "none", "level": "token"},
        {"method": "tis", "level": "adaptive"},
        {"method": "opsm", "lower": 0.0},
        {"method": "mis", "lower": 6.0},
        {"method": "mis", "over": "token"},
    ):
        with pytest.raises(SettingError):
            CorrectionSettings(**settings)
    for mixing in ({"alpha_max": 1.1}, {"severity_scale": 0.0}, {"effective_sample_floor": 1.0}, {"memory": 1.0}):
        with pytest.raises(SettingError):
            MixingSettings(**mixing)
    with pytest.raises(SettingError, match="finite"):
        RejectionSettings()


class Calls(TorchDispatchMode):
    """Counts the operations that reach torch's kernels."""

    made = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: f"{s.method}-{s.weight_level}")
def test_calls_into_torch_do_not_grow_with_the_number_of_sequences(settings: CorrectionSettings) -> None:
    correction, made = ais_core.build(settings), []
    for repeats in (2, 2, 200):  # the first fills caches
        lengths = torch.tensor([64, 40, 0, 3] * repeats)
        mask = torch.arange(64) < lengths[:, None]
        rows = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).clamp(-2, 2) * 0.1
        advantages = torch.ones(len(lengths))
        with Calls() as calls:
            batch = SequenceBatch.padded(rows, mask)
            plan, _ = correction.plan(correction.measure(batch, advantages), None)
            correction.weights(batch, advantages, plan)
        made.append(calls.made)
    assert made[1] == made[2]
