"""Long answers: nothing that is reported looks healthy where importance weights are no evidence."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ais_core
from ais_core import CorrectionSettings, MixingSettings, Plan, RejectionSettings, SequenceBatch
from ais_core.levels import Levels
from ais_core.plan import CONCERNS
from ais_core.settings import Level

SAME_BATCH = MixingSettings(evaluation="same_batch")
Draw = Callable[[int, torch.Generator], Tensor]


def gaussian(tokens: int, generator: torch.Generator) -> Tensor:
    return torch.randn(tokens, generator=generator) * 0.1 - 0.005


def heavy(tokens: int, generator: torch.Generator) -> Tensor:
    """Most tokens agree and a few are far off, as recorded log-ratios are; every ratio has mean 1."""
    deviation = torch.where(torch.rand(tokens, generator=generator) < 0.05, 0.6, 0.02)
    return torch.randn(tokens, generator=generator) * deviation - deviation.square() / 2


def shifted(tokens: int, generator: torch.Generator) -> Tensor:
    """The trained policy finds all tokens a little less likely: nothing has mean 1."""
    return torch.randn(tokens, generator=generator) * 0.02 - 0.03


def batch_of(length: int, sequences: int, draw: Draw) -> SequenceBatch:
    logs = draw(length * sequences, torch.Generator().manual_seed(length))
    return SequenceBatch.packed(logs, torch.full((sequences,), length))


def plan_of(batch: SequenceBatch, **settings: object) -> Plan:
    correction = ais_core.build(CorrectionSettings(**{"mixing": SAME_BATCH, **settings}))
    return correction.plan(correction.measure(batch), None)[0]


@pytest.mark.parametrize("draw", [gaussian, heavy, shifted])
@pytest.mark.parametrize(("length", "sequences"), [(1024, 256), (4096, 128), (8192, 64), (16384, 32), (65536, 16)])
def test_sequence_weights_of_long_answers_never_read_as_a_correction_that_is_not_there(
    length: int, sequences: int, draw: Draw
) -> None:
    batch = batch_of(length, sequences, draw)
    plan = plan_of(batch)
    assert plan.alpha is not None
    assert plan.effect is not None
    assert plan.diagnostics is not None
    whole = batch.log_ratio.view(sequences, length).double().sum(1)
    evidence = whole[whole.abs() <= 20].exp()
    effective = float(evidence.sum() ** 2 / evidence.square().sum()) if len(evidence) else 1.0
    assert plan.diagnostics.effective_sequences == pytest.approx(effective, rel=1e-6)
    assert plan.diagnostics.sequence_ess_ratio == pytest.approx(effective / sequences, rel=1e-6)
    limited = float((whole.abs() > 20).double().mean())
    assert plan.diagnostics.sequence_limited_share == plan.diagnostics.limited_share == pytest.approx(limited)
    assert plan.alpha <= (1 - limited) * (effective - 1) / (effective + 3) + 1e-9
    if limited > 0.5:
        assert plan.alpha < 0.2
        assert plan.effect.share < 0.01
        assert "exponent_limit" in plan.concerns
    if plan.effect.share < 0.1:
        assert "uncorrected" in plan.concerns
    if length >= 16384:
        assert plan.alpha < 0.01
        assert plan.effect.mean_weight == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("draw", [gaussian, heavy, shifted])
@pytest.mark.parametrize("length", [4096, 16384, 65536])
def test_vcpo_does_not_take_sequences_beyond_the_limit_for_a_perfect_sample(length: int, draw: Draw) -> None:
    sequences = 16
    scale = plan_of(batch_of(length, sequences, draw), method="vcpo").learning_rate_scale
    # One sequence carries the batch, or a few do; all of them would leave the learning rate alone.
    assert 1 / math.sqrt(sequences) - 1e-9 <= scale < 0.6


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("beyond", [1, 3, 64])
def test_sequences_beyond_either_limit_are_counted_and_carry_no_evidence(sign: int, beyond: int) -> None:
    logs = torch.zeros(64)
    logs[:beyond] = sign * torch.linspace(21.0, 70.0, beyond)
    correction = ais_core.build(
        CorrectionSettings(mixing=MixingSettings(rule="amplification", mismatch_limit=math.inf))
    )
    halves = [SequenceBatch.packed(part, torch.full((32,), 1)) for part in (logs[::2], logs[1::2])]
    plan, _ = correction.plan(sum(correction.measure(half) for half in halves), None)
    assert plan.diagnostics is not None
    assert plan.diagnostics.limited_share == plan.diagnostics.sequence_limited_share == beyond / 64
    effective = 64 - beyond if sign < 0 and beyond < 64 else 1
    assert plan.diagnostics.effective_sequences == pytest.approx(effective, rel=1e-6)
    assert plan.alpha == pytest.approx((1 - beyond / 64) * (effective - 1) / (effective + 3), abs=1e-6)


@pytest.mark.parametrize("shift", [-8.0, -12.0, -17.0])
@pytest.mark.parametrize("length", [1, 8])
def test_tiny_weights_within_the_limit_have_the_effective_sample_of_their_float64_definition(
    shift: float, length: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(200, generator=generator).clamp(-2.5, 2.5) + shift
    batch = SequenceBatch.packed((whole / length).repeat_interleave(length), torch.full((200,), length))
    plan = plan_of(batch, mixing=MixingSettings(evaluation="same_batch", mismatch_limit=math.inf))
    w = whole.double().exp()
    effective = float(w.sum() ** 2 / w.square().sum())
    assert plan.diagnostics is not None
    assert plan.diagnostics.sequence_ess_ratio == pytest.approx(effective / 200, rel=1e-4)
    assert plan.diagnostics.effective_sequences == pytest.approx(effective, rel=1e-4)
    if length == 1:
        assert plan.diagnostics.token_ess_ratio == pytest.approx(effective / 200, rel=1e-4)


@pytest.mark.parametrize("lengths", [[16384, *[16] * 255], [16] * 256, [1, 100, 10_000], [5000, 3, 0, 5000]])
def test_the_effective_number_of_sequences_weighs_them_by_their_tokens(lengths: list[int]) -> None:
    mass = torch.tensor(lengths, dtype=torch.float64)
    kish = float(mass.sum() ** 2 / mass.square().sum())
    batch = SequenceBatch.packed(torch.zeros(sum(lengths)), torch.tensor(lengths))
    levels: tuple[Level, ...] = ("sequence", "token", "prefix", "geometric", "adaptive")
    for level in levels:
        plan = plan_of(batch, level=level)
        assert plan.diagnostics is not None
        assert plan.diagnostics.effective_sequences == pytest.approx(kish), level
        assert plan.terms is not None
        assert plan.terms.amplification == pytest.approx((kish - 1) / (kish + 3)), level


LEVELS: list[tuple[Level, float]] = [("sequence", 1.0), ("token", 1.0), ("prefix", 1.0), ("tempered", 0.5)]


@pytest.mark.parametrize("rejections", [(), (RejectionSettings("k3", "sequence_max", upper=0.04),)])
@pytest.mark.parametrize(("level", "power"), [*LEVELS, ("geometric", 0.0)])
@pytest.mark.parametrize("mismatch", [0.01, 0.1, 0.3])
def test_the_effect_is_that_of_the_weights_applied(
    level: Level, power: float, mismatch: float, rejections: tuple[RejectionSettings, ...]
) -> None:
    lengths = torch.tensor([16, 40, 7, 16, 0, 3] * 20)
    logs = torch.randn(int(lengths.sum()), generator=torch.Generator().manual_seed(2)) * mismatch - mismatch**2 / 2
    batch = SequenceBatch.packed(logs, lengths)
    mixing = MixingSettings(evaluation="same_batch", rule="constant", alpha_max=0.7)
    settings = CorrectionSettings(level=level, rejections=rejections, mixing=mixing)
    correction = ais_core.build(settings)
    plan, _ = correction.plan(correction.measure(batch), None)
    weighted, uncorrected = (part.double() for part in correction.branches(batch, None, plan))
    h = weighted + uncorrected
    kept = h > 0
    response = weighted / h.clamp(min=1e-300) * (weighted < 0.7 * settings.cap * (1 - 1e-6))
    response *= 1 / lengths.repeat_interleave(lengths) if level == "geometric" else power
    assert plan.effect is not None
    assert plan.effect.mean_weight == pytest.approx(float(h.mean()), rel=1e-5)
    assert plan.effect.share == pytest.approx(float(weighted.sum() / h.sum()), rel=1e-5)
    assert plan.effect.slope == pytest.approx(float(response[kept].mean()), abs=0.005)
    ess = float(h.sum() ** 2 / (h.numel() * h.square().sum()))
    assert plan.effect.effective_sample_ratio == plan.effective_sample_ratio == pytest.approx(ess, rel=1e-5)


def test_the_effect_between_two_rungs_is_close_to_that_of_the_weights_applied() -> None:
    batch = batch_of(1024, 64, gaussian)
    correction = ais_core.build(CorrectionSettings(level="adaptive", mixing=SAME_BATCH))
    plan, _ = correction.plan(correction.measure(batch), None)
    weighted, uncorrected = (part.double() for part in correction.branches(batch, None, plan))
    h = weighted + uncorrected
    assert plan.effect is not None
    assert plan.effect.mean_weight == pytest.approx(float(h.mean()), rel=1e-4)
    assert plan.effect.share == pytest.approx(float(weighted.sum() / h.sum()), rel=1e-4)
    lower, share = int(plan.rung), plan.rung % 1
    open_weight = torch.zeros(len(h), dtype=torch.float64)
    for chunk in batch.chunks():
        levels = Levels(chunk, correction.settings)
        for rung, part in ((lower, 1 - share), (lower + 1, share)):
            w = levels.between(rung).double()
            open_weight[chunk.tokens] += part * w * (w < 2 - 1e-6)
    assert plan.alpha is not None
    assert plan.effect.slope == pytest.approx(float((plan.alpha * open_weight / h).mean()), abs=0.05)


def test_a_dial_that_asks_for_little_correction_is_no_concern() -> None:
    batch = batch_of(64, 64, gaussian)
    for alpha_max, concerns in ((0.05, ()), (1.0, ())):
        mixing = MixingSettings(evaluation="same_batch", alpha_max=alpha_max)
        assert plan_of(batch, mixing=mixing).concerns == concerns


@pytest.mark.parametrize("method", ["none", "tis", "icepop", "m2po", "vcpo", "ais"])
def test_a_batch_beyond_the_mismatch_limit_is_not_trusted_by_any_method(method: str) -> None:
    batch = SequenceBatch.packed(torch.full((64,), -4.8), torch.full((4,), 16))
    correction = ais_core.build(CorrectionSettings(method=method, mixing=SAME_BATCH))
    plan, _ = correction.plan(correction.measure(batch, torch.ones(4)), None)
    assert not plan.trusted
    assert "mismatch_limit" in plan.concerns
    assert set(plan.concerns) <= set(CONCERNS)


def test_trust_is_that_of_the_batch_itself_though_alpha_comes_from_the_one_before() -> None:
    correction = ais_core.build(CorrectionSettings())
    good, bad = (SequenceBatch.packed(torch.full((64,), x), torch.full((4,), 16)) for x in (-0.01, -4.8))
    _, state = correction.plan(correction.measure(good), None)
    assert correction.recall(state).trusted
    plan, state = correction.plan(correction.measure(bad), state)
    assert not plan.trusted
    plan, _ = correction.plan(correction.measure(good), state)
    assert plan.trusted
    assert plan.alpha == 0.0


@pytest.mark.parametrize("method", ["none", "tis", "mis", "geometric_mask", "opsm", "m2po", "vcpo"])
def test_a_method_that_does_not_mix_has_no_alpha_and_no_effect(method: str) -> None:
    correction = ais_core.build(CorrectionSettings(method=method))
    batch = SequenceBatch.packed(torch.zeros(8), torch.tensor([8]))
    plan, _ = correction.plan(correction.measure(batch, torch.ones(1)), None)
    assert plan.alpha is plan.effect is plan.terms is None
