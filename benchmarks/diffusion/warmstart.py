"""The policy that every cell begins with: taught by masked demonstrations until it solves a share of prompts."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ais.collector.prompts.prompts import TaskSource
from ais_core.diffusion import Sequences
from benchmarks.diffusion.network import Network, Shape, new_masters
from benchmarks.diffusion.sampling import Sampler

BATCH = 128
LEARNING_RATE = 2e-3
EVERY = 25
MOST_STEPS = 20_000
HELD_OUT = 256


def warm_start(
    file: Path | None, shape: Shape, sampler: Sampler, demonstrations: TaskSource, held_out: TaskSource, accuracy: float
) -> dict[str, Tensor]:
    """The masters in `file`, which is made where it is not there yet; without one they are made and not kept.

    LLaDA's loss: every token of a completion is masked with a probability drawn for the sequence, and the cross entropy
    of the masked ones is divided by it. Half of the prompts are masked as `ais_core.diffusion` masks them, so that the
    policy has seen such prompts.
    """
    if file is not None and file.is_file():
        kept: dict[str, Tensor] = load_file(file)
        return kept
    masters = {name: weight.requires_grad_() for name, weight in new_masters(shape, seed=0).items()}
    optimizer = torch.optim.Adam(list(masters.values()), LEARNING_RATE, betas=(0.9, 0.95))
    draw = torch.Generator().manual_seed(0)
    held = [held_out.prompt(ordinal) for ordinal in range(HELD_OUT)]
    for step in range(MOST_STEPS):
        if step % EVERY == 0:
            reached = float(sampler.sample(Network.trained(shape, masters), held, 1, seed=step).rewards.mean())
            print(f"warm start, step {step}: {reached:.3f} of {accuracy:.3f}", file=sys.stderr, flush=True)
            if reached >= accuracy:
                break
        asked = [demonstrations.prompt(step * BATCH + place) for place in range(BATCH)]
        loss = _loss(Network.trained(shape, masters), sampler.answered(asked), draw)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(masters.values()), 1.0)
        optimizer.step()
    found = {name: weight.detach() for name, weight in masters.items()}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(found, file)
    return found


def _loss(policy: Network, answered: Sequences, draw: torch.Generator) -> Tensor:
    tokens, completion = answered.tokens, answered.completion
    rows = len(tokens)
    share = torch.rand(rows, 1, generator=draw).clamp(min=0.1)
    of_prompts = 0.15 * (torch.rand(rows, 1, generator=draw) < 0.5)
    chances = torch.where(completion, share, of_prompts)
    hidden = torch.rand(tokens.shape, generator=draw) < chances
    logs = policy(tokens.masked_fill(hidden, policy.shape.mask_token), answered.present).log_softmax(-1)
    asked = hidden & completion
    losses = -logs[asked].gather(1, tokens[asked][:, None]).squeeze(1)
    return (losses / share.expand_as(tokens)[asked]).sum() / completion.sum()
