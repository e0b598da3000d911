"""The layers for a GPU's matrix units give the rounded layer's numbers. PyTorch has their products on a CPU as well."""

import pytest
import torch

from ais.contracts.sampling import Precision
from ais.rollout.engines.torch_engine.linear import RoundedLinear, rounded_linear
from ais.rollout.engines.torch_engine.matrix_units import Bf16Linear, Fp8Linear, Int8Linear, joined, matrix_unit

BIAS = torch.linspace(-1.0, 1.0, 48).bfloat16()


def two_weights() -> list[torch.Tensor]:
    """Two that need scales of their own: their sizes are very different."""
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(rows, 64, generator=generator) for rows, scale in ((32, 0.1), (16, 3.0))]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("weights", ["bf16", "e4m3", "int8"])
def test_a_matrix_unit_computes_what_rounded_operands_give(
    weights: str, rows: int, biased: bool, granularity: str
) -> None:
    precision = Precision.model_validate({"weights": weights, "activations": weights, "granularity": granularity})
    inputs = torch.randn(rows, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    both, biases = two_weights(), [BIAS] if biased else []
    bias = BIAS if biased else None
    unit: Bf16Linear | Fp8Linear | Int8Linear
    match weights:
        case "bf16":
            unit = Bf16Linear(torch.cat(both).bfloat16(), bias)
        case "e4m3":
            unit = Fp8Linear(*joined(both, precision), bias)
        case _:
            unit = Int8Linear(*joined(both, precision), None if bias is None else bias.float())
    expected = rounded_linear(both, biases, precision)
    assert isinstance(expected, RoundedLinear)
    # One unit in the last place of BF16, where an order of additions falls on the other side of a tie.
    torch.testing.assert_close(unit(inputs), expected(inputs), rtol=2.0**-8, atol=1e-3)


def test_a_cpu_has_no_matrix_units() -> None:
    assert matrix_unit(two_weights(), [], Precision()) is None
