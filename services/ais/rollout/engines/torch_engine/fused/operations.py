"""The fused operations of a decode step as functions of tensors.

Each gives what the linear layer behind it multiplies, so that no layer rounds its inputs again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ais.rollout.engines.torch_engine.fused import kernels
from ais.rollout.engines.torch_engine.linear import Linear, RoundedLinear
from ais.rollout.engines.torch_engine.matrix_units import Fp8Linear, Int8Linear
from ais_core.numerics import Format
from ais_core.numerics.formats import FLOAT32_MANTISSA_BITS, number_format

VALUES, CODES = 1, 2
"""What a kernel stores of a rounded row (`kernels`); 0 stores it as it is."""
COLUMNS_A_WARP = 512
MOST_WARPS = 16
LEAST_LINES = 16
"""Rows of the smallest product that matrix units take, and the smallest inner size."""
POSITIONS_A_STEP = 64
DEQUANTISED_COLUMNS = 1024
EXACTLY = {"enable_fp_fusion": False}
"""Option of a kernel that rounds to BF16 between a product and a sum: a fused one would leave that out."""


@dataclass(frozen=True)
class Operand:
    """Left operand of a product."""

    values: Tensor
    """[n, inputs]: bf16, rounded float32, or codes."""
    scales: Tensor | None = None
    """float32 [n, 1], of codes."""


def try_kernel(device: torch.device) -> None:
    """Compiles and starts a kernel. Raises whatever Triton raises where it cannot."""
    with torch.cuda.device(device):
        row = torch.zeros(1, 16, dtype=torch.bfloat16, device=device)
        kernels.quantise[(1,)](row, row, row, **_row(row), **_rounding(None, 0))
        torch.cuda.synchronize()


def multiplied(linear: Linear, operand: Operand) -> Tensor:
    """bf16 [n, outputs]."""
    if operand.scales is not None and isinstance(linear, Fp8Linear):
        return linear.product(operand.values, operand.scales)
    if operand.scales is not None and isinstance(linear, Int8Linear):
        return _dequantised(linear, linear.sums(operand.values), operand.scales)
    if isinstance(linear, RoundedLinear) and linear.activations is not None:
        return linear.product(operand.values)
    return linear(operand.values)


def normalised(
    stream: Tensor, added: Tensor | None, weight: Tensor, epsilon: float, linear: Linear
) -> tuple[Tensor, Operand]:
    """stream + added, and its RMS norm times weight as `linear` takes it. All bf16 [n, hidden], weight [hidden]."""
    summed = stream if added is None else torch.empty_like(stream)
    operand, rounding = _operand_for(linear, stream.shape, stream.device)
    other = stream if added is None else added
    targets = summed, operand.values, _scales_of(operand)
    kernels.normalise[(len(stream),)](
        _whole(stream), _whole(other), weight, *targets, epsilon, ADDED=added is not None, **_row(stream), **rounding
    )
    return summed, operand


def quantised(inputs: Tensor, linear: Linear) -> Operand:
    """bf16 [n, inputs] as `linear` takes it."""
    operand, rounding = _operand_for(linear, inputs.shape, inputs.device)
    if operand.values.dtype == inputs.dtype:
        return Operand(inputs)
    targets = operand.values, _scales_of(operand)
    kernels.quantise[(len(inputs),)](_whole(inputs), *targets, **_row(inputs), **rounding)
    return operand


def gated(gate_up: Tensor, linear: Linear) -> Operand:
    """silu(gate) * up as `linear` takes it; gate_up bf16 [n, 2 * inner]."""
    rows, columns = gate_up.shape
    operand, rounding = _operand_for(linear, torch.Size((rows, columns // 2)), gate_up.device)
    targets = operand.values, _scales_of(operand)
    kernels.gate[(rows,)](_whole(gate_up), *targets, **_row(operand.values), **rounding)
    return operand


def turned(
    heads: Tensor, norm: Tensor | None, positions: Tensor, tables: tuple[Tensor, Tensor], epsilon: float,
    keys: Tensor, values: Tensor, cache_format: Format | None,
) -> Tensor:  # fmt: skip
    """Writes keys and values of one position of each row to a layer's cache; gives the queries [n, heads, size].

    `heads` bf16 [n, heads + 2 * key_value_heads, size], one after the other; `norm` bf16 [heads + key_value_heads,
    size]; `positions` int64 [n]; `tables` bf16 [any, size]. Queries have the cache's dtype.
    """
    rows, count, size = heads.shape
    _, key_heads, length, _ = keys.shape
    queries = count - 2 * key_heads
    query = torch.empty((rows, queries, size), dtype=keys.dtype, device=heads.device)
    kernels.turn_heads[(rows, count)](
        _whole(heads), heads if norm is None else norm, positions, *tables, query, _whole(keys), _whole(values),
        epsilon, length, QUERIES=queries, KEYS=key_heads, SIZE=size, BLOCK=_power(size), NORMED=norm is not None,
        num_warps=1, **EXACTLY, **_rounding(cache_format, VALUES),
    )  # fmt: skip
    return query


def attended(query: Tensor, keys: Tensor, values: Tensor, positions: Tensor, scale: float) -> Tensor:
    """bf16 [n, heads * size]: `query` bf16 [n, heads, size] over positions 0 .. `positions[i]` of a BF16 cache."""
    rows, heads, size = query.shape
    _, key_heads, length, _ = keys.shape
    queries = heads // key_heads
    out = torch.empty((rows, heads * size), dtype=torch.bfloat16, device=query.device)
    kernels.attend[(rows, key_heads)](
        query, _whole(keys), _whole(values), positions, out, scale, length, QUERIES=queries, KEYS=key_heads, SIZE=size,
        BLOCK=max(LEAST_LINES, _power(size)), LINES=max(LEAST_LINES, _power(queries)), STEP=POSITIONS_A_STEP,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


def _dequantised(linear: Int8Linear, sums: Tensor, scales: Tensor) -> Tensor:
    rows, columns = sums.shape
    out = torch.empty((rows, columns), dtype=torch.bfloat16, device=sums.device)
    block = min(DEQUANTISED_COLUMNS, _power(columns))
    bias = linear.scales if linear.bias is None else linear.bias
    kernels.dequantise[(rows, -(-columns // block))](
        _whole(sums),
        scales,
        linear.scales,
        bias,
        out,
        columns,
        BLOCK=block,
        BIASED=linear.bias is not None,
        **EXACTLY,
    )
    return out


def _operand_for(linear: Linear, shape: torch.Size, device: torch.device) -> tuple[Operand, dict[str, Any]]:
    """Memory for what `linear` multiplies, and what a kernel must know to fill it."""
    dtype, scales = torch.bfloat16, None
    rounding = _rounding(None, 0)
    if isinstance(linear, (Fp8Linear, Int8Linear)):
        name: Format = "e4m3" if isinstance(linear, Fp8Linear) else "int8"
        dtype, rounding = number_format(name).storage, _rounding(name, CODES)
        scales = torch.empty((shape[0], 1), dtype=torch.float32, device=device)
    elif isinstance(linear, RoundedLinear) and linear.activations is not None:
        dtype, rounding = torch.float32, _rounding(linear.activations, VALUES)
    return Operand(torch.empty(shape, dtype=dtype, device=device), scales), rounding


def _scales_of(operand: Operand) -> Tensor:
    """What a kernel that stores no scales takes in their place is any pointer."""
    return operand.values if operand.scales is None else operand.scales


def _rounding(name: Format | None, kind: int) -> dict[str, Any]:
    """Constants of a kernel for a format; none for what is BF16 already."""
    if name is None or not number_format(name).scaled:
        return {"ROUNDING": 0, "INTEGER": False, "SHIFT": 1.0, "SMALLEST": 1.0, "LARGEST": 1.0}
    number = number_format(name)
    return {
        "ROUNDING": kind,
        "INTEGER": name == "int8",
        "SHIFT": 1.5 * 2.0 ** (FLOAT32_MANTISSA_BITS - number.mantissa_bits),
        "SMALLEST": number.smallest_normal,
        "LARGEST": number.largest,
    }


def _row(rows: Tensor) -> dict[str, Any]:
    """A kernel's constants for rows of this size, one program each."""
    block = _power(rows.shape[1])
    warps = min(MOST_WARPS, max(1, block // COLUMNS_A_WARP))
    return {"SIZE": rows.shape[1], "BLOCK": block, "num_warps": warps, **EXACTLY}


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _whole(tensor: Tensor) -> Tensor:
    assert tensor.is_contiguous(), "kernels read rows that lie one behind the other"
    return tensor
