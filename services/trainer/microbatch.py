"""From trajectories to tensors: length-bucketed microbatches under a token budget.

Only the cut into microbatches is decided here. It bounds memory and changes no result: whatever is normalised or
decided is so from sums over the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from services.contracts.trajectory import Trajectory


@dataclass(frozen=True)
class Sample:
    """One response with the prompt it answers. `prompt_token_ids` int32 [P]."""

    prompt_token_ids: np.ndarray
    trajectory: Trajectory

    @property
    def input_length(self) -> int:
        """Tokens the model reads: all but the last, which is only predicted."""
        return len(self.prompt_token_ids) + len(self.trajectory.token_ids) - 1


@dataclass(frozen=True, eq=False)
class Microbatch:
    """R sequences for one forward pass, and their T response tokens laid end to end, sequence by sequence."""

    input_ids: torch.Tensor
    """int64 [R, L]: prompt and response without its last token, right-padded with 0."""
    rows: torch.Tensor
    """int64 [T]: sequence of each response token, counted in this microbatch."""
    columns: torch.Tensor
    """int64 [T]: position whose hidden state predicts the token."""
    targets: torch.Tensor
    """int64 [T]: the response tokens."""
    behaviour_logprobs: torch.Tensor
    """float32 [T]: log-probs under the policy that sampled."""
    versions: torch.Tensor
    """int64 [T]: policy version that sampled the token."""
    temperature: torch.Tensor
    """float32 [T]: softmax temperature the token was drawn at."""
    sequences: torch.Tensor
    """int64 [R]: which sample of the batch each sequence is."""
    lengths: torch.Tensor
    """int64 [R]: response tokens of each sequence."""

    def to(self, device: torch.device) -> Microbatch:
        return Microbatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def cut(samples: Sequence[Sample], tokens_per_microbatch: int, first: int = 0) -> list[Microbatch]:
    """Microbatches of samples of similar length whose padded size stays within the budget.

    `first` is the number in the batch of the first sample.

    A sample that alone exceeds the budget gets a microbatch of its own.
    """
    order = sorted(range(len(samples)), key=lambda index: -samples[index].input_length)
    cuts: list[list[int]] = []
    width = 0
    for index in order:
        if not cuts or (len(cuts[-1]) + 1) * width > tokens_per_microbatch:
            cuts.append([])
            width = samples[index].input_length  # the longest comes first
        cuts[-1].append(index)
    return [_build(samples, chosen, first) for chosen in cuts]


def _build(samples: Sequence[Sample], chosen: Sequence[int], first: int) -> Microbatch:
    input_ids = np.zeros((len(chosen), samples[chosen[0]].input_length), dtype=np.int64)
    rows, columns, targets, behaviour, versions, temperature, lengths = [], [], [], [], [], [], []
    for row, index in enumerate(chosen):
        prompt, trajectory = samples[index].prompt_token_ids, samples[index].trajectory
        response = trajectory.token_ids
        input_ids[row, : len(prompt)] = prompt
        input_ids[row, len(prompt) : len(prompt) + len(response) - 1] = response[:-1]
        rows.append(np.full(len(response), row, dtype=np.int64))
        columns.append(np.arange(len(prompt) - 1, len(prompt) + len(response) - 1, dtype=np.int64))
        targets.append(response)
        behaviour.append(trajectory.behaviour_logprobs)
        versions.append(trajectory.token_versions())
        temperature.append(np.full(len(response), trajectory.sampling.temperature, dtype=np.float32))
        lengths.append(len(response))
    return Microbatch(
        input_ids=torch.from_numpy(input_ids),
        rows=torch.from_numpy(np.concatenate(rows)),
        columns=torch.from_numpy(np.concatenate(columns)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        behaviour_logprobs=torch.from_numpy(np.concatenate(behaviour).astype(np.float32)),
        versions=torch.from_numpy(np.concatenate(versions)),
        temperature=torch.from_numpy(np.concatenate(temperature)),
        sequences=torch.tensor(chosen) + first,
        lengths=torch.tensor(lengths),
    )
