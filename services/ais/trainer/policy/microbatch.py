"""From trajectories to tensors: length-bucketed microbatches under a token budget.

A trajectory is one row of what the model reads, or one for each of its passages: these stay together, because weights
and losses are those of whole trajectories.

Only the cut into microbatches is decided here. It bounds memory and changes no result: whatever is normalised or
decided is so from sums over the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch

from ais.contracts.sampling import Precision
from ais.contracts.trajectory import Trajectory
from ais.contracts.turns import Passage
from ais.trainer.policy.shared_prompts import Layout

OWN_CHOICE = -1
"""In the place of an expert's number: the router's own choice. Padding has it."""


@dataclass(frozen=True)
class Sample:
    """One trajectory with the prompt it answers. `prompt_token_ids` int32 [P]."""

    prompt_token_ids: np.ndarray
    trajectory: Trajectory

    @cached_property
    def passages(self) -> tuple[Passage, ...]:
        """The sequences that the model reads, one or more."""
        return self.trajectory.passages(self.prompt_token_ids)

    @property
    def input_length(self) -> int:
        """Tokens of the longest of them without its last, which is only predicted."""
        return max(map(len, self.passages)) - 1


@dataclass(frozen=True, eq=False)
class Microbatch:
    """R sequences for one forward pass, and their T sampled tokens laid end to end, sequence by sequence.

    A sequence is what was sampled in answer to one prompt. It is read in I >= R rows, one for each of its passages.
    Prompts and the context between turns are read and never predicted: they have no place among the T.
    """

    input_ids: torch.Tensor
    """int64 [I, L]: of each passage, prompt and what follows it without its last token, right-padded with 0."""
    rows: torch.Tensor
    """int64 [T]: sequence of each sampled token, counted in this microbatch."""
    input_rows: torch.Tensor
    """int64 [T]: row of `input_ids` whose hidden state predicts the token."""
    columns: torch.Tensor
    """int64 [T]: position in that row."""
    targets: torch.Tensor
    """int64 [T]: the sampled tokens."""
    behaviour_logprobs: torch.Tensor
    """float32 [T]: log-probs under the policy that sampled."""
    versions: torch.Tensor
    """int64 [T]: policy version that sampled the token."""
    temperature: torch.Tensor
    """float32 [T]: softmax temperature the token was drawn at."""
    sequences: torch.Tensor
    """int64 [R]: which sample of the batch each sequence is."""
    lengths: torch.Tensor
    """int64 [R]: sampled tokens of each sequence."""
    precision: Precision
    """Number formats of the policy that sampled: one for all sequences."""
    kept_counts: torch.Tensor | None = None
    """int64 [T]: how many tokens truncated sampling left beside each sampled one; None: it was not truncated."""
    kept_ids: torch.Tensor | None = None
    """int64 [sum of kept_counts]: those tokens, in the order of the T."""
    routes: torch.Tensor | None = None
    """int16 [I, L, layers, k]: the experts that read each token when it was sampled, -1 at padding; None: they were not
    recorded."""
    layout: Layout | None = None
    """How rows with several sequences are read; None: each row is one."""

    def to(self, device: torch.device) -> Microbatch:
        movable = [field.name for field in fields(self) if isinstance(getattr(self, field.name), torch.Tensor | Layout)]
        return replace(self, **{name: getattr(self, name).to(device) for name in movable})


def deal(samples: Sequence[Sample], ranks: int) -> list[list[int]]:
    """Which samples each rank takes: about as many of each length as the others, so that their passes take as long."""
    hands: list[list[int]] = [[] for _ in range(ranks)]
    for place, index in enumerate(_by_length(samples, range(len(samples)))):
        lap, turn = divmod(place, ranks)
        hands[turn if lap % 2 == 0 else ranks - 1 - turn].append(index)
    return [sorted(hand) for hand in hands]


def cut(
    samples: Sequence[Sample],
    tokens_per_microbatch: int,
    first: int = 0,
    chosen: Sequence[int] | None = None,
    by_prompt: bool = False,
) -> list[Microbatch]:
    """Microbatches of `samples`, or those `chosen` of them, longest first, each of one kind and within the budget.

    `first` is the number in the batch of the first sample. With `by_prompt` samples of one prompt stay together, and
    the budget counts them as `shared_prompts.packed` lays them out.

    A sample that alone exceeds the budget, all its passages together, gets a microbatch of its own.
    """
    kinds = [_kind(sample.trajectory) for sample in samples]
    cuts: list[list[int]] = []
    rows = _Rows(by_prompt)
    for index in _by_length(samples, range(len(samples)) if chosen is None else chosen, by_prompt):
        full = bool(cuts) and rows.cells_with(samples[index]) > tokens_per_microbatch
        if not cuts or full or kinds[index] != kinds[cuts[-1][0]]:
            cuts.append([])
            rows = _Rows(by_prompt)
        rows.add(samples[index])
        cuts[-1].append(index)
    return [_build(samples, indices, first) for indices in cuts]


def nothing(precision: Precision) -> Microbatch:
    """No sequences, for a pass that a rank makes only because the others make one: the model reads one token."""
    none, no_floats = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    return Microbatch(
        input_ids=torch.zeros(1, 1, dtype=torch.int64),
        rows=none,
        input_rows=none,
        columns=none,
        targets=none,
        behaviour_logprobs=no_floats,
        versions=none,
        temperature=no_floats,
        sequences=none,
        lengths=none,
        precision=precision,
    )


class _Rows:
    """The rows of a microbatch while it is filled: one for each passage, or for each prompt."""

    def __init__(self, by_prompt: bool) -> None:
        self._by_prompt = by_prompt
        self._widths: dict[object, int] = {}
        self._widest = 0

    def cells_with(self, sample: Sample) -> int:
        """Tokens, padding included, with one more sample."""
        changed = self._changed(sample)
        new = sum(key not in self._widths for key in changed)
        return (len(self._widths) + new) * max(self._widest, *changed.values())

    def add(self, sample: Sample) -> None:
        self._widths |= (changed := self._changed(sample))
        self._widest = max(self._widest, *changed.values())

    def _changed(self, sample: Sample) -> dict[object, int]:
        """Widths of the rows that the sample stands in."""
        found: dict[object, int] = {}
        for number, passage in enumerate(sample.passages):
            key = passage.prompt_token_ids.tobytes() if self._by_prompt else (len(self._widths), number)
            before = found.get(key) or self._widths.get(key) or len(passage.prompt_token_ids)
            found[key] = before + len(passage.text_token_ids) - 1  # the last token is predicted, never read
        return found


def _by_length(samples: Sequence[Sample], indices: Sequence[int], by_prompt: bool = False) -> list[int]:
    """`indices` by kind, the longest first; or those of each prompt side by side, by the longest of them."""
    prompts = [samples[index].prompt_token_ids.tobytes() if by_prompt else b"" for index in indices]
    longest: dict[bytes, int] = {}
    for index, prompt in zip(indices, prompts, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), samples[index].input_length)
    keys = {
        index: (_kind(samples[index].trajectory), -longest[prompt], prompt, -samples[index].input_length)
        for index, prompt in zip(indices, prompts, strict=True)
    }
    return sorted(indices, key=keys.__getitem__)


def _kind(trajectory: Trajectory) -> tuple[str, bool, str]:
    """What sequences of one forward pass have in common: the precision, whether their sampling was truncated, and how
    their mixture routes, where that was recorded."""
    return str(trajectory.precision), trajectory.kept is not None, str(trajectory.routed or "")


def _build(samples: Sequence[Sample], chosen: Sequence[int], first: int) -> Microbatch:
    passages = [passage for index in chosen for passage in samples[index].passages]
    trajectories = [samples[index].trajectory for index in chosen]
    spans = [span for trajectory in trajectories for span in trajectory.spans]
    prompt_lengths = np.array([len(passage.prompt_token_ids) for passage in passages])
    text_lengths = np.array([len(passage.text_token_ids) for passage in passages])
    lengths = np.array([len(trajectory.token_ids) for trajectory in trajectories])
    text = np.concatenate([passage.text_token_ids for passage in passages]).astype(np.int64)
    sampled = np.concatenate([passage.sampled for passage in passages])

    prompt_rows, prompt_columns = _ragged(prompt_lengths)
    input_rows, offsets = _ragged(text_lengths)
    columns = offsets + (prompt_lengths - 1)[input_rows]
    read = offsets < text_lengths[input_rows] - 1  # the last token is predicted, never read
    input_ids = np.zeros((len(passages), int((prompt_lengths + text_lengths).max()) - 1), dtype=np.int64)
    input_ids[prompt_rows, prompt_columns] = np.concatenate([passage.prompt_token_ids for passage in passages])
    input_ids[input_rows[read], columns[read] + 1] = text[read]
    rows, _ = _ragged(lengths)
    kept = [trajectory.kept for trajectory in trajectories if trajectory.kept is not None]
    temperatures = np.array([trajectory.sampling.temperature for trajectory in trajectories], dtype=np.float32)
    return Microbatch(
        input_ids=torch.from_numpy(input_ids),
        rows=torch.from_numpy(rows),
        input_rows=torch.from_numpy(input_rows[sampled]),
        columns=torch.from_numpy(columns[sampled]),
        targets=torch.from_numpy(text[sampled]),
        behaviour_logprobs=torch.from_numpy(np.concatenate([one.behaviour_logprobs for one in trajectories])),
        versions=torch.from_numpy(np.repeat([s.version for s in spans], [s.end - s.begin for s in spans])),
        temperature=torch.from_numpy(temperatures[rows]),
        sequences=torch.tensor(chosen) + first,
        lengths=torch.from_numpy(lengths),
        precision=trajectories[0].precision,
        kept_counts=torch.from_numpy(np.concatenate([one.counts for one in kept]).astype(np.int64)) if kept else None,
        kept_ids=torch.from_numpy(np.concatenate([one.token_ids for one in kept]).astype(np.int64)) if kept else None,
        routes=_routes(trajectories, prompt_lengths + text_lengths - 1, input_ids.shape[1]),
    )


def _routes(trajectories: Sequence[Trajectory], lengths: np.ndarray, width: int) -> torch.Tensor | None:
    """int16 [I, width, layers, k] of I passages with `lengths` tokens that are read."""
    found = [one.routed.expert_ids for one in trajectories if one.routed is not None]
    if not found:
        return None
    routes = np.full((len(lengths), width, *found[0].shape[1:]), OWN_CHOICE, dtype=np.int16)
    routes[_ragged(lengths)] = np.concatenate(found)
    return torch.from_numpy(routes)


def _ragged(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and position in the row of each element of rows that have these lengths, laid end to end."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return rows, np.arange(len(rows)) - np.repeat(lengths.cumsum() - lengths, lengths)
