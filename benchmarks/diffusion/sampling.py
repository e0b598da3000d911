"""Sampling by random-order unmasking, and the probability of the path that a sample took.

Which places are unmasked in which step is drawn ahead, whatever the policy. So, unlike the likelihood of a sample, the
probability of its path is a product of known factors, and the ratio of two policies' paths is an exact importance
weight of the completion: what estimates of it are held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.patterns import exact_match
from ais.collector.rewards.response import Response
from ais_core.diffusion import Sequences
from benchmarks.diffusion.network import Network


@dataclass(frozen=True, eq=False)
class Samples:
    """Completions to prompts of one length, each as long as its answer."""

    sequences: Sequences
    steps: Tensor
    """(N, T) int64: the step in which each place of the completion was unmasked."""
    path: Tensor
    """(N, T): the log-prob of each token when it was unmasked, by the policy that sampled it."""
    rewards: Tensor
    """(N,): 1 for the right answer, else 0."""


class Sampler:
    """Asks for completions at temperature 1 in a number of unmasking steps, and judges them as the demo's collector."""

    def __init__(self, tokenizer: Tokenizer, unmasking_steps: int) -> None:
        self._tokenizer = tokenizer
        self._unmasking_steps = unmasking_steps

    @torch.no_grad()
    def sample(self, policy: Network, prompts: Sequence[Prompt], samples: int, seed: int) -> Samples:
        """`samples` completions to each prompt, one prompt after another."""
        draw = torch.Generator().manual_seed(seed)
        asked = [prompt for prompt in prompts for _ in range(samples)]
        batch = self.answered(asked)
        rows, length = len(asked), int(batch.completion[0].sum())
        order = torch.rand(rows, length, generator=draw).argsort(1).argsort(1)
        steps = order * self._unmasking_steps // length
        tokens = batch.tokens.masked_fill(batch.completion, policy.shape.mask_token)
        path = torch.zeros(rows, length)
        for step in range(self._unmasking_steps):
            logs = policy(tokens, batch.present)[:, -length:].log_softmax(-1)
            drawn = torch.multinomial(logs.exp().flatten(0, 1), 1, generator=draw).view(rows, length)
            now = steps == step
            path = torch.where(now, logs.gather(2, drawn[..., None]).squeeze(2), path)
            tokens = torch.cat((tokens[:, :-length], torch.where(now, drawn, tokens[:, -length:])), 1)
        texts = self._tokenizer.decode_batch(tokens[:, -length:].tolist(), skip_special_tokens=False)
        rewards = [float(exact_match(Response(text), prompt)) for text, prompt in zip(texts, asked, strict=True)]
        return Samples(Sequences(tokens, batch.prompt, batch.completion), steps, path, torch.tensor(rewards))

    def answered(self, prompts: Sequence[Prompt]) -> Sequences:
        """The prompts with their right answers."""
        asked, answers = (
            torch.tensor([one.ids for one in self._tokenizer.encode_batch(texts, add_special_tokens=special)])
            for texts, special in (([one.text for one in prompts], True), ([one.answer for one in prompts], False))
        )
        completion = torch.cat((torch.zeros_like(asked), torch.ones_like(answers)), 1).bool()
        return Sequences(torch.cat((asked, answers), 1), ~completion, completion)

    @torch.no_grad()
    def path_of(self, policy: Network, samples: Samples) -> Tensor:
        """(N, T): the log-prob of each token by `policy` when it was unmasked on the path that was taken."""
        batch, length = samples.sequences, samples.steps.shape[1]
        given = batch.tokens[:, -length:]
        path = torch.zeros_like(samples.path)
        for step in range(self._unmasking_steps):
            shown = given.masked_fill(samples.steps >= step, policy.shape.mask_token)
            logs = policy(torch.cat((batch.tokens[:, :-length], shown), 1), batch.present)[:, -length:].log_softmax(-1)
            path = torch.where(samples.steps == step, logs.gather(2, given[..., None]).squeeze(2), path)
        return path
