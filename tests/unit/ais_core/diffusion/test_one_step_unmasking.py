"""Estimates for masked diffusion policies: one pass over a masked completion, the same masks for all policies."""

import itertools
import math

import pytest
import torch
from torch import Tensor

import ais_core
from ais_core import CorrectionSettings, MixingSettings, SequenceBatch, SettingError, ShapeError, objectives
from ais_core.diffusion import Denoiser, Sequences, estimate, one_step_views

MASK, VOCABULARY = 4, 4


def policy(seed: int, positions: int = 16, scale: float = 1.0) -> Denoiser:
    """Every place predicts from what is visible anywhere, and from its distance to the first token that is there."""
    draw = torch.Generator().manual_seed(seed)
    own = scale * torch.randn(positions, VOCABULARY, generator=draw, dtype=torch.float64)
    seen = scale * torch.randn(MASK + 1, VOCABULARY, generator=draw, dtype=torch.float64)
    return table_policy(own, seen)


def table_policy(own: Tensor, seen: Tensor) -> Denoiser:
    def logits(tokens: Tensor, present: Tensor) -> Tensor:
        place = (present.cumsum(1) - 1).clamp(min=0)
        visible = torch.where(present[..., None], seen[tokens.clamp(0, MASK)], 0.0).sum(1)
        return own[place] + visible[:, None]

    return logits


def sequences(*pairs: tuple[list[int], list[int]], left: int = 0, right: int = 0, filler: int = 0) -> Sequences:
    """Prompts and completions, each row behind `left` places of padding and before at least `right`."""
    longest = left + right + max(len(prompt) + len(completion) for prompt, completion in pairs)
    tokens = torch.full((len(pairs), longest), filler)
    masks = torch.zeros(2, len(pairs), longest, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(pairs):
        middle, end = left + len(prompt), left + len(prompt) + len(completion)
        tokens[row, left:end] = torch.tensor([*prompt, *completion])
        masks[0, row, left:middle], masks[1, row, middle:end] = True, True
    return Sequences(tokens, *masks)


LONG = [0, 1, 2, 3, 3, 2, 1, 0]
BATCH = ((LONG, [1, 2]), ([3, 1, 0], [0, 0, 2]), (LONG, [2, 1]))


def test_the_estimate_is_what_is_computed_by_hand() -> None:
    own = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.5, -0.5], [1.0, 2.0]])
    seen = torch.tensor([[0.25, 0.0], [0.0, 1.0], [0.0, 0.0]])
    views = one_step_views(
        Sequences(
            torch.tensor([[0, 1, 1, 0]]),
            torch.tensor([[True, True, False, False]]),
            torch.tensor([[False, False, True, True]]),
        ),
        mask_token=2, seed=5, draws=8, prompt_probability=0.5,
    )  # fmt: skip

    def table(tokens: Tensor, _present: Tensor) -> Tensor:
        return own + seen[tokens].sum(1)[:, None]

    expected = []
    for view in views.inputs[:, 0].tolist():
        assert view[2:] == [2, 2]
        zero = (0.25 if view[0] == 0 else 0.0, 1.0 if view[1] == 1 else 0.0)
        chances = []
        for place, token in ((2, 1), (3, 0)):
            logits = [float(own[place, 0]) + zero[0], float(own[place, 1]) + zero[1]]
            chances.append(logits[token] - math.log(sum(math.exp(one) for one in logits)))
        expected.append([0.0, 0.0, *chances])
    by_hand = torch.tensor(expected)
    assert len({tuple(view) for view in views.inputs[:, 0].tolist()}) > 2
    found = estimate(table, views)
    torch.testing.assert_close(found.logprobs[0], by_hand.mean(0))
    torch.testing.assert_close(found.variance[0], by_hand.var(0))


def test_identical_policies_have_ratios_of_exactly_one() -> None:
    views = one_step_views(sequences(*BATCH), MASK, seed=1, draws=3)
    first, second = (estimate(policy(7), views).logprobs for _ in range(2))
    assert ais_core.log_ratio(first, second).abs().max() == 0.0
    assert estimate(policy(7), views).variance.max() > 0.0


def test_with_masks_of_their_own_identical_policies_would_not() -> None:
    batch = sequences(*BATCH)
    first, second = (estimate(policy(7), one_step_views(batch, MASK, seed)).logprobs for seed in (1, 2))
    assert ais_core.log_ratio(first, second).abs().max() > 0.01


def test_masks_are_a_function_of_the_seed_and_the_sequence_alone() -> None:
    together = one_step_views(sequences(*BATCH), MASK, seed=3, draws=4, prompt_probability=0.5).inputs
    for row, pair in enumerate(BATCH):
        alone = one_step_views(sequences(pair), MASK, seed=3, draws=4, prompt_probability=0.5).inputs[:, 0]
        assert torch.equal(together[:, row, : alone.shape[1]], alone)
    reversed_ = one_step_views(sequences(*BATCH[::-1]), MASK, seed=3, draws=4, prompt_probability=0.5).inputs
    assert torch.equal(reversed_.flip(1), together)
    fewer = one_step_views(sequences(*BATCH), MASK, seed=3, draws=2, prompt_probability=0.5).inputs
    assert torch.equal(fewer, together[:2])


def test_another_seed_prompt_or_completion_has_other_masks() -> None:
    prompt = list(itertools.islice(itertools.cycle(range(VOCABULARY)), 64))
    changed = [*prompt[:-1], 0]
    rows = sequences((prompt, [1]), (prompt, [2]), (changed, [1]))
    hidden = [one_step_views(rows, MASK, seed, prompt_probability=0.5).inputs[0, :, :63] == MASK for seed in (0, 1)]
    masks = {tuple(row) for one in hidden for row in one.tolist()}
    assert len(masks) == 6


def test_masks_are_the_same_in_every_release() -> None:
    """A rollout engine and a trainer of other releases agree on them."""
    view = one_step_views(sequences(([0, 1, 2, 3] * 4, [1, 2])), MASK, seed=17, prompt_probability=0.3).inputs[0, 0]
    assert (view == MASK).nonzero().flatten().tolist() == [2, 11, 15, 16, 17]


@pytest.mark.parametrize("probability", [0.0, 0.15, 0.5])
def test_prompt_tokens_are_masked_with_the_probability_asked_for(probability: float) -> None:
    draws = 400
    inputs = one_step_views(sequences((LONG, [1])), MASK, 0, draws, probability).inputs[:, 0]
    assert (inputs[:, len(LONG)] == MASK).all()
    share = float((inputs[:, : len(LONG)] == MASK).float().mean())
    assert abs(share - probability) <= 4 * math.sqrt(probability * (1 - probability) / (draws * len(LONG)))


@pytest.mark.parametrize("filler", [MASK, -100])
def test_padding_and_what_it_holds_changes_nothing(filler: int) -> None:
    plain = sequences(*BATCH)
    padded = sequences(*BATCH, left=2, right=3, filler=filler)
    assert bool((one_step_views(padded, MASK, 9).inputs >= 0).all())  # ids that an embedding takes
    found = [estimate(policy(2), one_step_views(one, MASK, 9, draws=2)) for one in (plain, padded)]
    for one in ("logprobs", "variance"):
        first, second = (
            getattr(each, one)[batch.completion] for each, batch in zip(found, (plain, padded), strict=True)
        )
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    assert found[1].logprobs[~padded.completion].abs().max() == 0.0


def completions(length: int) -> Sequences:
    return sequences(*(([0, 3], list(one)) for one in itertools.product(range(VOCABULARY), repeat=length)))


def test_of_a_one_step_sampler_without_prompt_masks_it_is_the_likelihood() -> None:
    views = one_step_views(completions(3), MASK, seed=0, prompt_probability=0.0)
    behaviour, proximal = (estimate(policy(seed), views).logprobs.sum(1) for seed in (0, 1))
    assert math.isclose(float(behaviour.exp().sum()), 1.0, abs_tol=1e-12)
    assert math.isclose(float((behaviour.exp() * (proximal - behaviour).exp()).sum()), 1.0, abs_tol=1e-12)


def test_of_a_sampler_of_two_steps_it_is_not() -> None:
    """What the docstring warns of: the sum is too low on average, by the divergence, and ratios do not average to 1."""
    batch = completions(2)
    likelihood = torch.zeros(len(batch.tokens), dtype=torch.float64)
    for order in ((0, 1), (1, 0)):
        shown = torch.full_like(batch.tokens, MASK)
        shown[batch.prompt] = batch.tokens[batch.prompt]
        path = torch.zeros_like(likelihood)
        for place in order:
            table = policy(0)(shown, batch.present)[:, 2 + place].log_softmax(-1)
            target = batch.tokens[:, 2 + place]
            path += table.gather(1, target[:, None]).squeeze(1)
            shown[:, 2 + place] = target
        likelihood += path.exp() / 2
    assert math.isclose(float(likelihood.sum()), 1.0, abs_tol=1e-12)
    views = one_step_views(batch, MASK, seed=0, prompt_probability=0.0)
    behaviour, proximal = (estimate(policy(seed), views).logprobs.sum(1) for seed in (0, 1))
    divergence = float((likelihood * (likelihood.log() - behaviour)).sum())
    assert divergence > 0.01
    assert abs(float((likelihood * (proximal - behaviour).exp()).sum()) - 1.0) > 0.01


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_corrections_weigh_the_estimates_and_gradients_flow(level: str) -> None:
    batch = sequences(*BATCH)
    views = one_step_views(batch, MASK, seed=4, draws=2)
    own = torch.zeros(16, VOCABULARY, requires_grad=True)
    seen = torch.zeros(MASK + 1, VOCABULARY)
    with torch.no_grad():
        behaviour = estimate(policy(3, scale=0.1), views).logprobs
    current = estimate(table_policy(own, seen), views).logprobs
    ratios = SequenceBatch.padded(ais_core.log_ratio(current, behaviour), batch.completion)
    settings = CorrectionSettings(method="ais", level=level, mixing=MixingSettings(evaluation="same_batch"))  # type: ignore[arg-type]
    correction = ais_core.build(settings)
    plan, _ = correction.plan(correction.measure(ratios), None)
    weights = correction.weights(ratios, None, plan)
    assert plan.alpha
    assert plan.diagnostics
    assert plan.diagnostics.tokens == 7
    for row, places in zip(weights, batch.completion, strict=True):
        assert (len(set(row[places].tolist())) == 1) == (level == "sequence")
    losses = objectives.policy_gradient(current, torch.ones(3)[:, None], weights)
    (gradient,) = torch.autograd.grad(losses.sum(), own)
    assert gradient[2:12].abs().sum() > 0.0
    assert gradient[12:].abs().max() == 0.0


def test_a_single_draw_says_nothing_of_the_variance() -> None:
    assert estimate(policy(0), one_step_views(sequences(*BATCH), MASK, seed=0)).variance.isnan().all()


def test_sequences_that_cannot_be_estimated_are_refused() -> None:
    with pytest.raises(ShapeError, match="1 completions hold the mask token 4"):
        one_step_views(sequences(([0, 1], [1, MASK]), ([0], [1])), MASK, seed=0)
    places = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ShapeError, match="some are of both"):
        Sequences(torch.zeros(1, 2, dtype=torch.int64), places, places)
    with pytest.raises(ShapeError, match="alike"):
        Sequences(torch.zeros(1, 3, dtype=torch.int64), places, ~places)
    with pytest.raises(ShapeError, match="int64"):
        Sequences(torch.zeros(1, 2), places, ~places)
    with pytest.raises(ShapeError, match="expected logits"):
        estimate(
            lambda tokens, _: torch.zeros(tokens.shape[0], 1, VOCABULARY), one_step_views(sequences(*BATCH), MASK, 0)
        )


@pytest.mark.parametrize(
    "wrong", [{"draws": 0}, {"prompt_probability": 1.0}, {"prompt_probability": math.nan}, {"seed": 1 << 63}]
)
def test_settings_without_a_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        one_step_views(sequences(*BATCH), **{"mask_token": MASK, "seed": 0, **wrong})  # type: ignore[arg-type]
