"""Log-ratios of single tokens: each at its place, whatever microbatch and rank it was in."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ais.trainer.learning.token_ratios import TokenRatios
from ais.trainer.policy.microbatch import Microbatch

CPU = torch.device("cpu")


def microbatch(sequences: list[int], lengths: list[int]) -> Microbatch:
    """What `TokenRatios` reads of one."""
    fields = dict.fromkeys(Microbatch.__dataclass_fields__)
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    found = {"rows": rows, "sequences": torch.tensor(sequences), "lengths": torch.tensor(lengths)}
    return Microbatch(**{**fields, **found})  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_the_first_tokens_of_what_is_watched_are_found_again(lengths: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(lengths))))
    most = data.draw(st.integers(1, 9))
    chosen = data.draw(st.sets(st.sampled_from(range(len(lengths)))))
    watched = {sequence: min(most, lengths[sequence]) for sequence in sorted(chosen)}
    values = {sequence: [sequence + token / 16 for token in range(length)] for sequence, length in enumerate(lengths)}
    ranks = [TokenRatios(watched, len(lengths), CPU) for _ in range(2)]
    cut = data.draw(st.integers(0, len(lengths)))
    for rank, part in zip(ranks, (order[:cut], order[cut:]), strict=True):
        for begin in range(0, len(part), 3):
            few = part[begin : begin + 3]
            logs = torch.tensor([value for sequence in few for value in values[sequence]])
            rank.add(logs, microbatch(few, [lengths[sequence] for sequence in few]))
    ranks[0].sums += ranks[1].sums
    assert ranks[0].by_response() == {
        sequence: tuple(values[sequence][:tokens]) for sequence, tokens in watched.items()
    }


def test_a_response_that_was_not_measured_has_none() -> None:
    ratios = TokenRatios({0: 2, 1: 1}, 2, CPU)
    ratios.add(torch.tensor([0.5]), microbatch([1], [1]))
    assert ratios.by_response() == {1: (0.5,)}
