"""The fused decode step computes what the plain one computes on the same device, operation by operation and whole.

Without a GPU Triton's interpreter runs the kernels, where Triton is installed and TRITON_INTERPRET=1 is set.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ais.contracts.sampling import Precision
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.rollout.engines.torch_engine.cache import KeyValueCache
from ais.rollout.engines.torch_engine.decoder import Decoder
from ais.rollout.engines.torch_engine.linear import RoundedLinear
from ais.rollout.engines.torch_engine.matrix_units import Bf16Linear, Fp8Linear, Int8Linear
from ais.rollout.engines.torch_engine.weights import DecoderWeights, read_tensors, rounded_weights
from ais_core.numerics import encode_activation, quantize_activation
from tests.support.tiny_models import VOCABULARY, random_model

pytest.importorskip("triton", reason="Triton is not installed; PyTorch's CUDA packages bring it")
ON_GPU = torch.cuda.is_available()
if not ON_GPU and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("torch sees no GPU here, and TRITON_INTERPRET=1 is not set", allow_module_level=True)

from ais.rollout.engines.torch_engine.fused import operations  # noqa: E402
from ais.rollout.engines.torch_engine.fused.decoder import FusedDecoder  # noqa: E402

DEVICE = torch.device("cuda" if ON_GPU else "cpu")
EPSILON = 1e-6
ROWS = 19
SIZES = [48, 256, 1000]
"""Lengths of rows: no power of two, one, and one that needs a mask of many."""
ULP = {"rtol": 2.0**-7, "atol": 1e-6}
"""One unit in the last place of BF16."""
TWICE = {"rtol": 2.0**-6, "atol": 1e-6}
"""The same of a product whose factor was rounded as well."""


@pytest.fixture(scope="module", autouse=True)
def _interpreter_that_rounds() -> Any:
    """Triton's interpreter truncates to BF16 and multiplies BF16's bits. Here it does both as a GPU does."""
    if ON_GPU:
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    types = {tl.bfloat16: torch.bfloat16, tl.float8e4nv: torch.float8_e4m3fn}
    plain, plain_dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def convert(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if source != tl.float32 or target not in types:
            return plain(data, source, target, mode)
        rounded = torch.from_numpy(np.ascontiguousarray(data)).to(types[target])
        bits = torch.uint16 if rounded.itemsize == 2 else torch.uint8
        return rounded.view(bits).numpy().reshape(data.shape)

    def dot(builder: Any, a: Any, b: Any, *others: Any) -> Any:
        exact = [interpreter.TensorHandle(builder.cast_impl(one, tl.float32).data, tl.float32) for one in (a, b)]
        return plain_dot(builder, *exact, *others)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(interpreter, "_convert_float", convert)
        patched.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
        yield


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """BF16 rows of different sizes, one of zeros."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    values *= torch.linspace(0.01, 8.0, shape[0]).view(-1, *[1] * (len(shape) - 1))
    values[3] = 0.0
    return values.bfloat16().to(DEVICE)


def layer(kind: str, size: int) -> Bf16Linear | Fp8Linear | Int8Linear | RoundedLinear:
    """One that takes rows of `size`; what it multiplies them with does not matter."""
    none = torch.zeros(0, size, device=DEVICE)
    match kind:
        case "bf16":
            return Bf16Linear(none, None)
        case "fp8 codes":
            return Fp8Linear(none, none, None)
        case "int8 codes":
            return Int8Linear(none, none, None)
        case _:
            return RoundedLinear(none, None, kind)  # type: ignore[arg-type]


KINDS = ["fp8 codes", "int8 codes", "e4m3", "e5m2", "e2m1", "int8"]


def check_rounded(found: operations.Operand, kind: str, inputs: torch.Tensor) -> None:
    """Codes, scales and values are those of the quantiser, bit for bit."""
    if kind.endswith("codes"):
        expected = encode_activation(inputs, "e4m3" if kind == "fp8 codes" else "int8")
        assert found.scales is not None
        assert torch.equal(found.values.view(torch.uint8), expected.codes.view(torch.uint8))
        assert torch.equal(found.scales, expected.scales)
    else:
        expected_values = quantize_activation(inputs, kind, torch.float32)  # type: ignore[arg-type]
        assert torch.equal(found.values, expected_values)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_rounded_as_the_quantiser_rounds_it(kind: str, size: int) -> None:
    inputs = drawn(ROWS, size)
    check_rounded(operations.quantised(inputs, layer(kind, size)), kind, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_with_nan_stays_without_a_distribution(kind: str) -> None:
    inputs = drawn(ROWS, 48)
    inputs[5, 7] = torch.nan
    found = operations.quantised(inputs, layer(kind, 48))
    marked = found.values if found.scales is None else found.scales
    assert torch.isnan(marked).any(1).tolist() == [row == 5 for row in range(ROWS)]


def plain_norm(stream: torch.Tensor) -> torch.Tensor:
    exact = stream.float()
    return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + EPSILON)).bfloat16()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["bf16", *KINDS])
def test_a_residual_is_added_and_normalised(kind: str, size: int) -> None:
    stream, added, weight = drawn(ROWS, size), drawn(ROWS, size, seed=1), drawn(size, 1, seed=2).view(-1)
    for addend, expected in ((None, stream), (added, stream + added)):
        summed, found = operations.normalised(stream, addend, weight, EPSILON, layer(kind, size))
        assert torch.equal(summed, expected)
        _, normed = operations.normalised(stream, addend, weight, EPSILON, layer("bf16", size))
        torch.testing.assert_close(normed.values, plain_norm(expected) * weight, **TWICE)
        if kind != "bf16":
            check_rounded(found, kind, normed.values)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["bf16", *KINDS])
def test_a_gate_multiplies(kind: str, size: int) -> None:
    both = drawn(ROWS, 2 * size)
    gate, up = both.chunk(2, -1)
    exact = operations.gated(both, layer("bf16", size)).values
    torch.testing.assert_close(exact, F.silu(gate) * up, **TWICE)
    if kind != "bf16":
        check_rounded(operations.gated(both, layer(kind, size)), kind, exact)


@pytest.mark.parametrize("biased", [False, True])
def test_sums_get_their_scales(biased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (1040, 64), generator=generator, dtype=torch.int8).to(DEVICE)
    bias = torch.randn(1040, generator=generator).to(DEVICE) if biased else None
    linear = Int8Linear(codes, torch.rand(1, 1040, generator=generator).to(DEVICE), bias)
    inputs = drawn(ROWS, 64)
    found = operations.multiplied(linear, operations.quantised(inputs, linear))
    torch.testing.assert_close(found, linear(inputs), **ULP)


@pytest.mark.parametrize("queries", [1, 4, 17])
@pytest.mark.parametrize("size", [8, 128])
def test_attention_sees_up_to_the_rows_position(queries: int, size: int) -> None:
    rows, key_heads, length = 5, 2, 200
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(rows, key_heads * queries, size, generator=generator).bfloat16().to(DEVICE)
    keys, values = (
        torch.randn(rows + 2, key_heads, length, size, generator=generator).bfloat16().to(DEVICE) for _ in range(2)
    )
    positions = torch.tensor([0, 63, 64, 150, 199], device=DEVICE)
    for row, position in enumerate(positions.tolist()):
        keys[row, :, position + 1 :] = values[row, :, position + 1 :] = torch.nan
    found = operations.attended(query, keys, values, positions, size**-0.5).view(rows, key_heads, queries, size)
    for row, position in enumerate(positions.tolist()):
        seen = slice(0, position + 1)
        expected = F.scaled_dot_product_attention(
            query[row].view(key_heads, queries, size).float(), keys[row, :, seen].float(), values[row, :, seen].float()
        )
        torch.testing.assert_close(found[row].float(), expected, rtol=0.02, atol=0.02)


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    random_model(request.param, seed=1).save_pretrained(directory)
    return directory


WHOLE = {
    "bf16": (Precision(weights="bf16"), 0.03),
    "e4m3": (Precision(), 0.08),
    "e4m3 everywhere": (Precision(kv_cache="e4m3", head=True), 0.08),
    "int8": (Precision(weights="int8", activations="int8"), 0.04),
    "blocks": (Precision(granularity="block"), 0.08),
}
"""Precisions, and the mean difference of log-probs, nats."""


@torch.inference_mode()
@pytest.mark.parametrize("name", WHOLE)
def test_a_step_gives_the_plain_steps_logits_and_cache(name: str, model: Path) -> None:
    precision, limit = WHOLE[name]
    architecture = read_architecture(model)
    weights = rounded_weights(read_tensors(snapshot_files(model), architecture), architecture, precision, DEVICE)
    generator = torch.Generator().manual_seed(0)
    prefix = torch.randint(0, VOCABULARY, (6, 20), generator=generator).to(DEVICE)
    positions = torch.tensor([20, 3, 20, 9, 0, 17], device=DEVICE)
    found, expected = (
        step(kind(architecture, precision, 32, DEVICE), weights, prefix, positions, empty)
        for kind, empty in (
            (FusedDecoder, halved(KeyValueCache.allocate(architecture, precision, 8, 32, DEVICE), precision)),
            (Decoder, KeyValueCache.allocate(architecture, precision, 8, 32, DEVICE)),
        )
    )
    assert float((found[0] - expected[0]).abs().mean()) < limit
    written = zip((*found[1].keys, *found[1].values), (*expected[1].keys, *expected[1].values), strict=True)
    for one, other in written:
        assert float((one.float() - other.float()).abs().mean()) < limit


def halved(cache: KeyValueCache, precision: Precision) -> KeyValueCache:
    """The cache as a GPU holds it."""
    if precision.kv_cache != "bf16":
        return cache
    return replace(
        cache, keys=tuple(one.bfloat16() for one in cache.keys), values=tuple(one.bfloat16() for one in cache.values)
    )


def step(
    decoder: Decoder, weights: DecoderWeights, prefix: torch.Tensor, positions: torch.Tensor, cache: KeyValueCache
) -> tuple[torch.Tensor, KeyValueCache]:
    """Log-probs after one decode step of rows whose prefixes were filled, and the cache it leaves."""
    decoder.fill(weights, prefix, torch.arange(6, device=DEVICE), cache)
    tokens = torch.tensor([5, 6, 7, 8, 9, 10], device=DEVICE)
    return torch.log_softmax(decoder.decode(weights, tokens, positions, 21, cache), -1), cache
