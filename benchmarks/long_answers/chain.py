"""A world of any length whose gradients are sums over a few hundred cells.

An answer has T tokens, 16 or more. At each one a context, uniform and independent of everything, and a flag, alive or
dead, are seen; the policy draws an action from a table of logits. An alive answer dies at a token with probability
hazard(context, action) / T, so that about half of them end alive at any T, and one token matters the less the more
there are. The reward is 1 for an answer that ends alive. What a prefix is worth therefore stays for the rest of the
answer, as with a mistake in a calculation, and the policy can see it.

The logits are theta(context, action) + phi(flag, context, action), and the gradient has both parts. Tokens of one cell
(flag, context, action) are exchangeable: a sum over time is a geometric series, a sequence its counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ALIVE, DEAD = 0, 1
CONTEXTS, ACTIONS = 8, 16
LETHALITY = 0.7
"""The expected number of deaths per answer, were it to go on: exp(-.7) is a half."""


@dataclass(frozen=True, eq=False)
class Chain:
    """Probabilities [2, contexts, actions] float64 of the policy that trains and of the one that samples."""

    tokens: int
    trained: Tensor
    sampled: Tensor
    hazard: Tensor
    """[contexts, actions]: T times the probability that the action ends an alive answer."""

    @property
    def log_ratio(self) -> Tensor:
        """[2, contexts, actions]."""
        return self.trained.log() - self.sampled.log()

    def survival(self, policy: Tensor) -> Tensor:
        """The probability of living on for one more token."""
        return 1.0 - (policy[ALIVE] * self.hazard).sum(1).mean() / self.tokens

    @property
    def mean_abs_log_ratio(self) -> float:
        """D over the tokens that the sampling policy draws, nats."""
        per_flag = (self.sampled * self.log_ratio.abs()).sum(2).mean(1)
        return float((per_flag * self.visits).sum() / self.tokens)

    @property
    def visits(self) -> Tensor:
        """[2]: the expected tokens of an answer at which the sampling policy finds itself alive, or dead."""
        alive = _series(self.survival(self.sampled), self.tokens)
        return torch.stack([alive, self.tokens - alive])


def make(tokens: int, mismatch: float, seed: int, adverse: bool = False) -> Chain:
    """A chain whose policies are `mismatch` nats apart per token (D).

    The sampler's logits are off by heavy-tailed noise (Student's t, 3 degrees of freedom), drawn for every cell. With
    `adverse` the sampler leans towards deadly actions where an answer is alive, which the trainer then learns from.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    theta = 2.0 * normal(CONTEXTS, ACTIONS)
    logits = theta + 0.3 * normal(2, CONTEXTS, ACTIONS)
    hazard = normal(CONTEXTS, ACTIONS).exp()
    trained = logits.softmax(-1)
    hazard *= LETHALITY / (trained[ALIVE] * hazard).sum(1).mean()
    noise = normal(2, CONTEXTS, ACTIONS) / normal(3, 2, CONTEXTS, ACTIONS).square().mean(0).sqrt()
    if adverse:
        noise[ALIVE] = hazard - hazard.mean(1, keepdim=True)
        noise[DEAD] = -noise[ALIVE]
    low, high = 0.0, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        chain = Chain(tokens, trained, (logits + middle * noise).softmax(-1), hazard)
        low, high = (middle, high) if chain.mean_abs_log_ratio < mismatch else (low, middle)
    return chain


def parameters(cells: Tensor) -> Tensor:
    """The gradient in (theta, phi), flat, from one in logits [..., 2, contexts, actions]."""
    return torch.cat([cells.sum(-3).flatten(-2), cells.flatten(-3)], -1)


def _series(ratio: Tensor, terms: int) -> Tensor:
    """1 + ratio + ... + ratio^(terms - 1)."""
    return (1.0 - ratio**terms) / (1.0 - ratio)


def exact(chain: Chain) -> Tensor:
    """The gradient of the reward of the policy that trains, flat."""
    survival = chain.survival(chain.trained)
    # d J / d trained(alive, context, action), then through the softmax.
    outer = -chain.tokens * survival ** (chain.tokens - 1) * chain.hazard / chain.tokens / CONTEXTS
    cells = torch.zeros_like(chain.trained)
    cells[ALIVE] = chain.trained[ALIVE] * (outer - (chain.trained[ALIVE] * outer).sum(1, keepdim=True))
    return parameters(cells)


def of_token_weights(chain: Chain, weights: Tensor, centred: bool = False) -> Tensor:
    """The expected gradient where each token is weighed by its cell, weights [2, contexts, actions], flat.

    E of the sum over t of h(cell) (R - b) grad log trained, with b the sampler's mean reward. `centred` subtracts from
    each token's score its mean under the sampler, h included: `ais_core.centering`.
    """
    tokens, survival = chain.tokens, chain.survival(chain.sampled)
    baseline = survival**tokens
    visits = chain.visits / CONTEXTS
    # Sums over time of P(flag at t) times E[R - b | flag at t, action].
    q = torch.empty_like(chain.sampled)
    q[ALIVE] = (1.0 - chain.hazard / tokens) * survival ** (tokens - 1) * tokens / CONTEXTS
    q[ALIVE] -= baseline * visits[ALIVE]
    q[DEAD] = -baseline * visits[DEAD]
    mass = chain.sampled * weights
    if centred:
        # E[(Q - b) (h score - E h score)] = cov(Q, h score): Q less its mean.
        q = q - (chain.sampled * q).sum(-1, keepdim=True)
    pushed = mass * q
    return parameters(pushed - chain.trained * pushed.sum(-1, keepdim=True))


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences drawn by the sampling policy, as counts."""

    counts: Tensor
    """[n, 2, contexts, actions] float64: tokens of each cell."""
    rewards: Tensor
    """[n] float64."""

    def log_weights(self, chain: Chain, cap: float | None) -> Tensor:
        """[n]: the logarithm of each sequence's product of ratios, each truncated at `cap`."""
        logs = chain.log_ratio if cap is None else chain.log_ratio.clamp(max=float(torch.tensor(cap).log()))
        return (self.counts * logs).flatten(1).sum(1)

    def scores(self, chain: Chain, weights: Tensor) -> Tensor:
        """[n, parameters]: the sum over tokens of h(cell) grad log trained, weights [2, contexts, actions]."""
        weighted = self.counts * weights
        return parameters(weighted - weighted.sum(-1, keepdim=True) * chain.trained)

    def centred_scores(self, chain: Chain, weights: Tensor) -> Tensor:
        """[n, parameters]: the same, less what the sampler expects of it at each token."""
        mass = chain.sampled * weights
        mean = mass - mass.sum(-1, keepdim=True) * chain.trained
        return self.scores(chain, weights) - parameters(self.counts.sum(-1, keepdim=True) * mean)


def draw(chain: Chain, sequences: int, generator: torch.Generator) -> Sequences:
    """Counts of whole sequences: how long each lives, then what it does alive, at its death, and dead."""
    tokens, survival = chain.tokens, float(chain.survival(chain.sampled))
    uniform = torch.rand(sequences, generator=generator, dtype=torch.float64)
    lived = (uniform.log() / torch.tensor(survival, dtype=torch.float64).log()).floor().clamp(max=tokens).long()
    died = lived < tokens
    alive = chain.sampled[ALIVE] * (1.0 - chain.hazard / tokens)
    deadly = chain.sampled[ALIVE] * chain.hazard
    counts = torch.zeros(sequences, 2, CONTEXTS, ACTIONS, dtype=torch.float64)
    counts[:, ALIVE] = _multinomial(lived, alive, generator)
    counts[:, DEAD] = _multinomial((tokens - lived - 1).clamp(min=0), chain.sampled[DEAD], generator)
    last = torch.multinomial(deadly.flatten(), sequences, replacement=True, generator=generator)
    counts[:, ALIVE].view(sequences, -1)[torch.arange(sequences), last] += died.double()
    return Sequences(counts, (~died).double())


def _multinomial(number: Tensor, probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """[n, *cells]: `number` [n] draws each among cells [*cells] of unnormalised probability."""
    flat = probabilities.flatten() / probabilities.sum()
    left, rest = number.double(), 1.0
    found = []
    for chance in flat[:-1].tolist():
        taken = torch.binomial(left, torch.full_like(left, min(chance / rest, 1.0)), generator=generator)
        found.append(taken)
        left, rest = left - taken, max(rest - chance, 1e-300)
    return torch.stack([*found, left], 1).view(len(number), *probabilities.shape)
