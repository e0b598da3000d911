"""Scoring by the policy against the plain use of the same Hugging Face model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from ais.contracts.sampling import Precision
from ais.runtime.process import UnavailableError
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.policy import scoring as scoring_module
from ais.trainer.policy.float32_products import Float32Products
from ais.trainer.policy.microbatch import Sample, cut
from ais.trainer.policy.policy import Policy
from tests.support.trainer_groups import make_group

BF16_TOLERANCE = 0.05
"""Log-probs of the same tokens from differently ordered BF16 computations, nats."""


def samples(**sampling: float) -> list[Sample]:
    groups = [make_group(ordinal, lengths=(2, 12), **sampling) for ordinal in range(3)]
    return [Sample(group.prompt_token_ids, trajectory) for group in groups for trajectory in group.trajectories]


def expected_logprobs(model: Qwen3ForCausalLM, sample: Sample, temperature: float) -> torch.Tensor:
    """One sequence, no padding, through the library's own forward in BF16."""
    prompt, response = sample.prompt_token_ids.tolist(), sample.trajectory.token_ids.tolist()
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].float()
    return torch.log_softmax(logits / temperature, -1)[range(len(response)), response]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_padding_and_batching_change_no_logprob(temperature: float) -> None:
    policy, reference = Policy(demo_model(seed=1)), demo_model(seed=1).to(torch.bfloat16).eval()
    batch = samples(temperature=temperature)
    (microbatch,) = cut(batch, tokens_per_microbatch=10_000)
    with torch.no_grad():
        scores = policy.score(microbatch)
        expected = torch.cat([expected_logprobs(reference, batch[i], temperature) for i in microbatch.sequences])
    assert scores.logprobs.dtype == torch.float32
    torch.testing.assert_close(scores.logprobs, expected, atol=BF16_TOLERANCE, rtol=0)


def test_gradients_of_a_bf16_forward_are_float32_and_close_to_a_float32_forward() -> None:
    policy, reference = Policy(demo_model(seed=1)), demo_model(seed=1)
    batch = samples()
    (microbatch,) = cut(batch, tokens_per_microbatch=10_000)
    policy.score(microbatch).logprobs.sum().backward()
    torch.cat([expected_logprobs(reference, sample, 1.0) for sample in batch]).sum().backward()
    for name, parameter in reference.named_parameters():
        gradient = policy.masters[name].grad
        assert gradient is not None
        assert gradient.dtype == torch.float32
        assert torch.cosine_similarity(gradient.flatten(), parameter.grad.flatten(), dim=0) > 0.995, name


def test_tied_embeddings_are_one_weight_with_the_gradient_of_both_uses() -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=22, hidden_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=32,
        intermediate_size=32, tie_word_embeddings=True,
    )  # fmt: skip
    policy = Policy(Qwen3ForCausalLM(config))
    assert "lm_head.weight" not in policy.masters
    (microbatch,) = cut(samples()[:1], tokens_per_microbatch=100)
    policy.score(microbatch).logprobs.sum().backward()
    gradient = policy.masters["model.embed_tokens.weight"].grad
    assert gradient is not None
    never_read = [token for token in range(22) if token not in microbatch.input_ids]
    assert (gradient[never_read].abs().sum(1) > 0).all()  # from the head's softmax alone


def test_a_large_vocabularys_logits_are_not_kept_and_change_no_score_nor_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (microbatch,) = cut(samples(), tokens_per_microbatch=10_000)
    whole, pieces = (Policy(demo_model(seed=1), compute_dtype=torch.float32) for _ in range(2))
    expected = whole.score(microbatch)
    expected.logprobs.square().sum().backward()

    monkeypatch.setattr(scoring_module, "LOGITS_AT_ONCE", 5 * pieces.vocab_size)
    logits: list[int] = []

    def kept(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-1:] == (pieces.vocab_size,):
            logits.append(len(tensor))
        return tensor

    assert len(microbatch.targets) > 10
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        scores = pieces.score(microbatch)
    scores.logprobs.square().sum().backward()
    assert logits == []
    assert torch.equal(scores.logprobs, expected.logprobs)
    assert torch.equal(scores.entropy, expected.entropy)
    for name, parameter in pieces.masters.items():
        torch.testing.assert_close(parameter.grad, whole.masters[name].grad, atol=1e-5, rtol=1e-5)


def test_a_float32_head_rounds_no_logit_and_trains_every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    (microbatch,) = cut(samples(), tokens_per_microbatch=10_000)
    policy = Policy(demo_model(seed=1))
    policy.scoring.float32_head = True
    whole = policy.score(microbatch)
    monkeypatch.setattr(scoring_module, "LOGITS_AT_ONCE", 5 * policy.vocab_size)
    scores = policy.score(microbatch)
    with torch.no_grad():
        states = policy.scoring._states(microbatch.input_ids, None)[microbatch.input_rows, microbatch.columns]
    logits = states.double() @ policy.weight("lm_head.weight").double().T / microbatch.temperature[:, None]
    expected = torch.log_softmax(logits, -1).gather(1, microbatch.targets[:, None]).squeeze(1)
    for found in (whole, scores):
        torch.testing.assert_close(found.logprobs.double(), expected, atol=1e-5, rtol=0)
    scores.logprobs.square().sum().backward()
    for name, master in policy.masters.items():
        assert master.grad is not None, name
        assert master.grad.norm() > 0, name


@pytest.mark.parametrize("precision", [None, Precision(weights="e2m1", head=True)], ids=str)
def test_activation_checkpointing_keeps_less_and_changes_no_score_nor_gradient(precision: Precision | None) -> None:
    (microbatch,) = cut(samples(), tokens_per_microbatch=10_000)
    kept: list[int] = []
    gradients, scores = [], []
    for checkpointing in (False, True):
        policy = Policy(demo_model(seed=1))
        names = list(policy.masters)
        if checkpointing:
            policy.scoring.checkpoint_activations()
        saved: set[int] = set()

        def keep(tensor: torch.Tensor, saved: set[int] = saved) -> torch.Tensor:
            saved.add(tensor.untyped_storage().data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            scored = policy.score(microbatch, precision)
        kept.append(len(saved))
        scored.logprobs.square().sum().backward()
        scores.append(scored.logprobs.detach())
        gradients.append({name: master.grad for name, master in policy.masters.items()})
        assert list(policy.masters) == names
    assert kept[1] < kept[0] / 2
    assert torch.equal(scores[0], scores[1])
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_head_that_does_more_than_a_linear_layer_is_refused() -> None:
    config = Gemma2Config(
        vocab_size=22, hidden_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=32,
        intermediate_size=32, final_logit_softcapping=0.01,
    )  # fmt: skip
    with pytest.raises(UnavailableError, match="Gemma2ForCausalLM does not compute its logits by one linear layer"):
        Policy(Gemma2ForCausalLM(config))


def test_a_directory_without_a_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"Set run\.model"):
        Policy.load(tmp_path)


def test_float32_kernels_give_the_bf16_product() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 7, 64, generator=generator).bfloat16()
    weight = torch.randn(32, 64, generator=generator).bfloat16()
    bias = torch.randn(32, generator=generator).bfloat16()
    exact = torch.nn.functional.linear(x.double(), weight.double())
    with Float32Products(linear=True):
        product = torch.nn.functional.linear(x, weight)
        biased = torch.nn.functional.linear(x, weight, bias)
    assert product.dtype == torch.bfloat16
    torch.testing.assert_close(product, exact.bfloat16(), atol=0, rtol=2**-7)
    torch.testing.assert_close(biased, product + bias)


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_float32_kernels_give_causal_attention_and_its_gradient(key_value_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(3, heads, 9, 16, generator=generator).bfloat16().requires_grad_()
        for heads in (4, key_value_heads, key_value_heads)
    )
    attention = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True, scale=0.3, enable_gqa=True)
    with Float32Products(linear=False):
        result = attention(query, key, value)
    exact = [operand.detach().double().requires_grad_() for operand in (query, key, value)]
    expected = attention(*exact)
    torch.testing.assert_close(result, expected.bfloat16(), atol=2**-9, rtol=2**-7)
    result.sum().backward()
    expected.sum().backward()
    for operand, reference in zip((query, key, value), exact, strict=True):
        torch.testing.assert_close(operand.grad, reference.grad.bfloat16(), atol=2**-6, rtol=2**-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
)
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, name: str, value: float) -> None:
    model = demo_model(seed=0)
    dict(model.named_parameters())[name].data.view(-1)[7] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(UnavailableError, match=rf"not finite: {name} hold"):
        Policy.load(tmp_path)


def test_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    model = demo_model(seed=0)
    weights = {name: value for name, value in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(UnavailableError, match=r"lack model.layers.1.mlp.down_proj.weight, "):
        Policy.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not safetensors at all"])
def test_weights_that_cannot_be_read_are_unavailable(tmp_path: Path, content: bytes) -> None:
    demo_model(seed=0).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UnavailableError, match=str(tmp_path)):
        Policy.load(tmp_path)


@pytest.mark.parametrize("config", ["{", '{"model_type": "no such model"}', '{"model_type": "bert"}', "[]", ""])
def test_a_configuration_of_anything_else_is_unavailable(tmp_path: Path, config: str) -> None:
    demo_model(seed=0).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UnavailableError, match=str(tmp_path)):
        Policy.load(tmp_path)
