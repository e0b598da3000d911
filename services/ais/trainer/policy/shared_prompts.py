"""A prompt is read once for all its responses: they stand behind it in one row, and none sees another.

The responses of a group have their prompt in common, and a causal model computes the same of it for each of them. Of a
microbatch with a row for each response, `packed` makes one with a row for each prompt. Positions and a mask say who
stands where and who sees whom, so log-probs and gradients are those of the separate rows but for the order of
additions.

What it saves is the products of the prompts' tokens; what it costs is attention, because in a long row most pairs of
tokens are masked and computed all the same. So `cost` says which is cheaper: it is where prompts are long and responses
short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PretrainedConfig

from ais.contracts.turns import Passage
from ais.runtime.process import UnavailableError

if TYPE_CHECKING:
    from ais.trainer.policy.microbatch import Microbatch

PROMPT, PADDING = 0, -1
"""Segments that are no response; those have numbers from 1."""
KNOWN = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3"})
"""Model types that a test compares with separate rows. Others may see windows, or count positions by columns."""


@dataclass(frozen=True, eq=False)
class Layout:
    """How rows with several responses are read."""

    positions: torch.Tensor
    """int64 [I, L]: of each token in its sequence."""
    segments: torch.Tensor
    """int64 [I, L]: which response of its row each token belongs to."""

    def to(self, device: torch.device) -> Layout:
        return Layout(self.positions.to(device), self.segments.to(device))

    def split(self, rows: int) -> list[Layout]:
        """Layouts of so many rows each."""
        parts = zip(torch.split(self.positions, rows), torch.split(self.segments, rows), strict=True)
        return [Layout(*part) for part in parts]

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """What is added to attention scores, [I, 1, L, L]: 0 where a token sees another, else the lowest number."""
        of, seen = self.segments[:, :, None], self.segments[:, None, :]
        sees = ((seen == of) | (seen == PROMPT)).tril_()
        mask = torch.full(sees.shape, torch.finfo(dtype).min, dtype=dtype, device=sees.device)
        return mask.masked_fill_(sees, 0.0)[:, None]


def pairs_per_token(config: PretrainedConfig) -> int:
    """How many pairs of tokens cost as much in attention as the products of one more token: a layer of width d makes
    about 24 d^2 operations for a token, and 4 d for a pair.

    Raises UnavailableError for a model that is not known to attend as positions and mask say.
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    if config.model_type not in KNOWN or kinds != {"full_attention"}:
        raise UnavailableError(
            f"trainer.compute.share_prompts knows {', '.join(sorted(KNOWN))}, with layers of full attention. This is "
            f"{config.model_type}, with {', '.join(sorted(kinds))}: set it to false."
        )
    return 6 * int(config.hidden_size)


def cost(microbatches: Sequence[Microbatch], pairs_per_token: int) -> int:
    """What passes over them cost, in pairs of tokens."""
    sizes = [one.input_ids.shape for one in microbatches]
    return sum(rows * width * (pairs_per_token + width) for rows, width in sizes)


def packed(microbatch: Microbatch, passages: Sequence[Passage]) -> Microbatch:
    """The same sequences with a row for each prompt. `passages` are those of its rows, in their order."""
    rows_of: dict[bytes, list[int]] = {}
    for row, passage in enumerate(passages):
        rows_of.setdefault(passage.prompt_token_ids.tobytes(), []).append(row)
    read = np.array([len(passage.text_token_ids) - 1 for passage in passages])  # the last token is predicted alone
    prompts = np.array([len(passage.prompt_token_ids) for passage in passages])
    width = max(int(prompts[rows[0]] + read[rows].sum()) for rows in rows_of.values())
    shape = (len(rows_of), width)
    input_ids, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, PADDING, dtype=np.int64)
    moved = np.zeros((len(passages), 2), dtype=np.int64)  # the row of each passage now, and the columns it moved by
    old = microbatch.input_ids.numpy()
    for place, rows in enumerate(rows_of.values()):
        end = int(prompts[rows[0]])
        input_ids[place, :end] = old[rows[0], :end]
        positions[place, :end] = np.arange(end)
        segments[place, :end] = PROMPT
        for number, row in enumerate(rows, start=1):
            begin, end, prompt = end, end + int(read[row]), int(prompts[row])
            input_ids[place, begin:end] = old[row, prompt : prompt + read[row]]
            positions[place, begin:end] = np.arange(prompt, prompt + read[row])
            segments[place, begin:end] = number
            moved[row] = place, begin - prompt
    rows_now, shifts = moved[microbatch.input_rows.numpy()].T
    columns = microbatch.columns.numpy()
    in_prompt = columns < prompts[microbatch.input_rows.numpy()]  # what the prompt's last token predicts
    return replace(
        microbatch,
        input_ids=torch.from_numpy(input_ids),
        input_rows=torch.from_numpy(np.ascontiguousarray(rows_now)),
        columns=torch.from_numpy(np.where(in_prompt, columns, columns + shifts)),
        layout=Layout(torch.from_numpy(positions), torch.from_numpy(segments)),
    )
