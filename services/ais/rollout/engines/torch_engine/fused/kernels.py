"""Triton kernels of a decode step. A program computes one row, one head, or one key's queries.

Rows are contiguous. Offsets that grow with rows are int64. Values are float32 between loads and stores, and rounded to
BF16 where the plain decoder rounds them.

ROUNDING says what a row is stored as: 0 in the target's own type, 1 rounded float32 values, 2 codes with a scale a row.
INTEGER, SHIFT, SMALLEST and LARGEST describe the format, as `NumberFormat.round` uses them.
"""
# No postponed annotations, and none of types: Triton reads them. mypy does not know Triton where it is not installed.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl


@triton.jit
def _bf16(x):
    return x.to(tl.bfloat16).to(tl.float32)


@triton.jit
def _on_grid(x, INTEGER: tl.constexpr, SHIFT: tl.constexpr, SMALLEST: tl.constexpr, LARGEST: tl.constexpr):
    """A row rounded to the format's grid, and its scale. A row that has a NaN has a scale of NaN."""
    # As integers magnitudes compare as they do as numbers, and NaN is above them all. 226492416 is 2^-100.
    largest = tl.maximum(tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0), 226492416)
    scale = tl.math.div_rn(largest.to(tl.float32, bitcast=True), LARGEST)
    scaled = tl.math.div_rn(x, scale)
    if INTEGER:
        rounded = (scaled + SHIFT) - SHIFT
    else:
        power = (scaled.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        shift = tl.maximum(power, SMALLEST) * SHIFT
        rounded = (scaled + shift) - shift
    return rounded, scale


@triton.jit
def _put(
    out, scales, x, row, at, inside,
    ROUNDING: tl.constexpr, INTEGER: tl.constexpr, SHIFT: tl.constexpr, SMALLEST: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    if ROUNDING == 0:
        tl.store(out + at, x.to(out.dtype.element_ty), mask=inside)
    else:
        rounded, scale = _on_grid(x, INTEGER, SHIFT, SMALLEST, LARGEST)
        if ROUNDING == 1:
            tl.store(out + at, rounded * scale, mask=inside)
        else:
            tl.store(out + at, rounded.to(out.dtype.element_ty), mask=inside)
            tl.store(scales + row, scale)


@triton.jit
def normalise(
    stream, added, weight, summed, out, scales, epsilon,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, ADDED: tl.constexpr,
    ROUNDING: tl.constexpr, INTEGER: tl.constexpr, SHIFT: tl.constexpr, SMALLEST: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """summed = stream + added; out = RMS norm of it * weight, rounded."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    at = row * SIZE + columns
    x = tl.load(stream + at, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        x = _bf16(x + tl.load(added + at, mask=inside, other=0.0).to(tl.float32))
        tl.store(summed + at, x.to(tl.bfloat16), mask=inside)
    x = _bf16(x * tl.rsqrt(tl.sum(x * x, 0) / SIZE + epsilon))
    x = _bf16(x * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32))
    _put(out, scales, x, row, at, inside, ROUNDING, INTEGER, SHIFT, SMALLEST, LARGEST)


@triton.jit
def quantise(
    source, out, scales,
    SIZE: tl.constexpr, BLOCK: tl.constexpr,
    ROUNDING: tl.constexpr, INTEGER: tl.constexpr, SHIFT: tl.constexpr, SMALLEST: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    at = row * SIZE + columns
    x = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    _put(out, scales, x, row, at, inside, ROUNDING, INTEGER, SHIFT, SMALLEST, LARGEST)


@triton.jit
def gate(
    gate_up, out, scales,
    SIZE: tl.constexpr, BLOCK: tl.constexpr,
    ROUNDING: tl.constexpr, INTEGER: tl.constexpr, SHIFT: tl.constexpr, SMALLEST: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """out = silu(first half of a row) * second half, rounded."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    source = row * (2 * SIZE) + columns
    x = tl.load(gate_up + source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + source + SIZE, mask=inside, other=0.0).to(tl.float32)
    x = _bf16(_bf16(x / (1.0 + tl.exp(-x))) * up)
    _put(out, scales, x, row, row * SIZE + columns, inside, ROUNDING, INTEGER, SHIFT, SMALLEST, LARGEST)


@triton.jit
def dequantise(
    sums, token_scales, output_scales, bias, out, size,
    BLOCK: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """out = sums * scale of the row * scale of the column + bias, in BF16."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    at = row * size + columns
    x = tl.load(sums + at, mask=inside, other=0).to(tl.float32) * tl.load(token_scales + row)
    x = x * tl.load(output_scales + columns, mask=inside, other=0.0)
    if BIASED:
        x = x + tl.load(bias + columns, mask=inside, other=0.0)
    tl.store(out + at, x.to(tl.bfloat16), mask=inside)


@triton.jit
def turn_heads(
    heads, weight, positions, cosines, sines, query, keys, values, epsilon, length,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, NORMED: tl.constexpr,
    ROUNDING: tl.constexpr, INTEGER: tl.constexpr, SHIFT: tl.constexpr, SMALLEST: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """One head of one row: queries and keys normalised and turned, keys and values written to the cache.

    `heads` [rows, QUERIES + 2 KEYS, SIZE]; `keys` and `values` [rows, KEYS, length, SIZE].
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    source = heads + (row * (QUERIES + 2 * KEYS) + head) * SIZE
    position = tl.load(positions + row)
    x = tl.load(source + columns, mask=inside, other=0.0).to(tl.float32)
    if head < QUERIES + KEYS:
        opposite = tl.where(columns < SIZE // 2, columns + SIZE // 2, columns - SIZE // 2)
        y = tl.load(source + opposite, mask=inside, other=0.0).to(tl.float32)
        if NORMED:
            factor = tl.rsqrt(tl.sum(x * x, 0) / SIZE + epsilon)
            learned = weight + head * SIZE
            x = _bf16(_bf16(x * factor) * tl.load(learned + columns, mask=inside, other=0.0).to(tl.float32))
            y = _bf16(_bf16(y * factor) * tl.load(learned + opposite, mask=inside, other=0.0).to(tl.float32))
        cosine = tl.load(cosines + position * SIZE + columns, mask=inside, other=0.0).to(tl.float32)
        sine = tl.load(sines + position * SIZE + columns, mask=inside, other=0.0).to(tl.float32)
        y = tl.where(columns < SIZE // 2, -y, y)
        x = _bf16(_bf16(x * cosine) + _bf16(y * sine))
    if head < QUERIES:
        target = query + (row * QUERIES + head) * SIZE + columns
        tl.store(target, x.to(query.dtype.element_ty), mask=inside)
    else:
        if ROUNDING != 0:
            rounded, scale = _on_grid(x, INTEGER, SHIFT, SMALLEST, LARGEST)
            x = rounded * scale
        key = head - QUERIES
        if key < KEYS:
            target = keys + ((row * KEYS + key) * length + position) * SIZE + columns
            tl.store(target, x.to(keys.dtype.element_ty), mask=inside)
        else:
            target = values + ((row * KEYS + key - KEYS) * length + position) * SIZE + columns
            tl.store(target, x.to(values.dtype.element_ty), mask=inside)


@triton.jit
def attend(
    query, keys, values, positions, out, scale, length,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
    LINES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The queries of one key head over the positions up to the row's own.

    The softmax is taken as they come (Milakov, Gimelshein 2018, "Online normalizer calculation for softmax"). `query`
    and `out` [rows, KEYS, QUERIES, SIZE], `keys` and `values` [rows, KEYS, length, SIZE], all BF16. LINES is QUERIES,
    rounded up to what a matrix unit takes.
    """
    row = tl.program_id(0).to(tl.int64)
    line = row * KEYS + tl.program_id(1)
    queries = tl.arange(0, LINES)
    columns = tl.arange(0, BLOCK)
    at = line * (QUERIES * SIZE) + queries[:, None] * SIZE + columns[None, :]
    wanted = (queries[:, None] < QUERIES) & (columns[None, :] < SIZE)
    asked = tl.load(query + at, mask=wanted, other=0.0)
    last = tl.load(positions + row).to(tl.int32)
    begin = line * length * SIZE
    best = tl.full([LINES], float("-inf"), tl.float32)
    total = tl.zeros([LINES], tl.float32)
    sums = tl.zeros([LINES, BLOCK], tl.float32)
    for start in range(0, last + 1, STEP):
        places = start + tl.arange(0, STEP)
        seen = places <= last
        entries = begin + places[:, None] * SIZE + columns[None, :]
        there = seen[:, None] & (columns[None, :] < SIZE)
        key = tl.load(keys + entries, mask=there, other=0.0)
        scores = tl.dot(asked, tl.trans(key)) * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        newest = tl.maximum(best, tl.max(scores, 1))
        shares = tl.exp(scores - newest[:, None])
        shrunk = tl.exp(best - newest)
        value = tl.load(values + entries, mask=there, other=0.0)
        total = total * shrunk + tl.sum(shares, 1)
        sums = sums * shrunk[:, None] + tl.dot(shares.to(tl.bfloat16), value)
        best = newest
    tl.store(out + at, (sums / total[:, None]).to(tl.bfloat16), mask=wanted)
