"""Tokens from logits: the distribution, one draw from it, and the log-prob of what was drawn.

Every draw is the inverse of the cumulative distribution at one uniform number. That number is a pure function of the
request's seed, the sample's index and the token's index, so a seeded request draws the same numbers whatever else is in
the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_INCREMENT = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_COLD = 1e-3
"""Temperature below which a logit divided by it may overflow."""
CHUNK = 1024
"""Tokens whose probabilities a GPU adds up before it looks where a number falls."""
_UNIFORM_BITS = 52
"""Bits of a uniform number u: few enough that u * total < total holds after rounding, whatever the total."""


def sample_key(seed: int, index: int) -> int:
    """Start of the random stream of sample `index`, 64 bits; streams of any two pairs are unrelated."""
    return _mixed(_mixed(seed & _MASK) + _INCREMENT * (index + 1) & _MASK)


def uniforms(keys: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Number `draws[i]` of stream `keys[i]` (both uint64 [n]) as float64 in [0, 1).

    SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), entered at any point.
    """
    state = keys + (draws + np.uint64(1)) * np.uint64(_INCREMENT)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    numbers: np.ndarray = (state >> np.uint64(64 - _UNIFORM_BITS)).astype(np.float64) * 2.0**-_UNIFORM_BITS
    return numbers


def _mixed(state: int) -> int:
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
    return state ^ (state >> 31)


def distribution(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor | None = None
) -> Tensor:
    """Log-probs f32 [n, V] of what is sampled: tempered, truncated by min_p, top_k, then top_p, normalised again.

    `logits` f32 [n, V]; `temperature`, `top_p` and `min_p` f32 [n]; `top_k` int64 [n], 0 keeps all. The most likely
    token is always kept, and vLLM truncates in the same order. All but the logits are on the CPU, so that which rows
    need what is known without waiting for a GPU.
    """
    device = logits.device
    cold = (temperature < _COLD).nonzero().squeeze(1)
    if cold.numel():  # the largest logit becomes 0, which stays 0: the same distribution, without an overflow
        cold = cold.to(device)
        shifted = logits[cold] - logits[cold].amax(dim=-1, keepdim=True)
        logits = logits.index_copy(0, cold, shifted)
    tempered = torch.log_softmax(logits / _sent(temperature, device)[:, None], dim=-1)
    min_p = torch.zeros_like(top_p) if min_p is None else min_p
    truncated = ((top_k > 0) | (top_p < 1.0) | (min_p > 0.0)).nonzero().squeeze(1)
    if truncated.numel():
        limits = top_k[truncated].to(device), top_p[truncated].to(device), min_p[truncated].to(device)
        rows = truncated.to(device)
        tempered[rows] = _truncated(tempered[rows], *limits)
    return tempered


def _sent(numbers: Tensor, device: torch.device) -> Tensor:
    """On the device, in the order of its work: waiting for the copy would be waiting for the decode step before it."""
    return numbers.to(device, non_blocking=True)


def _truncated(logprobs: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    ordered, order = logprobs.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(logprobs.shape[-1], device=logprobs.device)
    ordered.masked_fill_(ordered < ordered[:, :1] + min_p.log()[:, None], -torch.inf)  # log 0: none is less likely
    ordered.masked_fill_((top_k[:, None] > 0) & (ranks >= top_k[:, None]), -torch.inf)
    probabilities = torch.softmax(ordered, dim=-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    ordered.masked_fill_((mass_before >= top_p[:, None]) & (ranks > 0), -torch.inf)
    return torch.log_softmax(torch.empty_like(logprobs).scatter_(-1, order, ordered), dim=-1)


def kept_beside(logprobs: Tensor, tokens: Tensor, rows: Sequence[int]) -> dict[int, np.ndarray]:
    """For each of `rows`, the tokens that could have been drawn beside the one that was, int32 in rising order.

    `logprobs` f32 [n, V] of the truncated distribution, `tokens` int64 [n].
    """
    if not rows:
        return {}
    chosen = torch.tensor(rows, device=logprobs.device)
    others = (logprobs[chosen] > -torch.inf).scatter_(1, tokens[chosen][:, None], False).cpu().numpy()
    return {row: np.flatnonzero(kept).astype(np.int32) for row, kept in zip(rows, others, strict=True)}


def draw(logprobs: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token of each row: int64 [n], and its log-prob f32 [n]. `logprobs` f32 [n, V], `uniform` f64 [n], on a CPU.

    A row with NaN among its log-probs has no distribution: its log-prob is NaN, its token means nothing.
    """
    if logprobs.is_cuda:
        return draw_by_chunks(logprobs, uniform)
    cumulative = torch.cumsum(logprobs.exp(), dim=-1, dtype=torch.float64)
    tokens = torch.searchsorted(cumulative, uniform.to(logprobs.device)[:, None] * cumulative[:, -1:], right=True)
    tokens.clamp_(max=logprobs.shape[-1] - 1)  # beyond the last one where the row is NaN
    return tokens.squeeze(1), logprobs.gather(-1, tokens).squeeze(1)


def draw_by_chunks(logprobs: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """As `draw`, with less to read and write: finds the chunk of the vocabulary first, then the token in it."""
    rows, size = logprobs.shape
    chunks = -(-size // CHUNK)
    probabilities = logprobs.new_empty(rows, chunks * CHUNK)
    probabilities[:, size:] = 0.0
    torch.exp(logprobs, out=probabilities[:, :size])
    pieces = probabilities.view(rows, chunks, CHUNK)
    masses = pieces.sum(-1, dtype=torch.float64).cumsum(-1)
    target = _sent(uniform, logprobs.device)[:, None] * masses[:, -1:]
    chunk = torch.searchsorted(masses, target, right=True).clamp_(max=chunks - 1)
    before = torch.where(chunk > 0, masses.gather(1, (chunk - 1).clamp(min=0)), 0.0)
    chosen = pieces.gather(1, chunk[:, :, None].expand(-1, -1, CHUNK)).squeeze(1)
    cumulative = chosen.cumsum(-1, dtype=torch.float64)
    # Sums of two orders differ in their last bits: never go beyond the last token that has a probability.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    within = torch.minimum(torch.searchsorted(cumulative, target - before, right=True), last)
    tokens = (chunk * CHUNK + within).clamp_(max=size - 1)
    return tokens.squeeze(1), logprobs.gather(-1, tokens).squeeze(1)
