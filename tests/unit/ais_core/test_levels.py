"""The ladder of blocks against blocks cut by hand, in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ais_core
from ais_core import CorrectionSettings, MixingSettings, RejectionSettings, SequenceBatch
from ais_core.diagnostics.sums import Sums
from ais_core.levels import RUNGS, WHOLE, Levels

CAP = 2.0


def by_hand(logs: list[Tensor], rung: int, keep: list[Tensor] | None = None, truncate: bool = True) -> list[float]:
    """One row of the ladder: the sums over tokens that `sums.LADDER` names."""
    row = torch.zeros(8, dtype=torch.float64)
    for i, sequence in enumerate(logs):
        x = sequence.double()
        width = max(len(x), 1) if rung == WHOLE else 2**rung
        for start in range(0, len(x), width):
            part = x[start : start + width]
            total = part.sum()
            low, high = float(total < -20), float(total > 20)
            raw = total.clamp(-20, 20).exp() * (1 - low - high)
            log_truncated = (part.clamp(max=math.log(CAP)) if truncate else part).sum()
            weight = log_truncated.clamp(-20, 20).exp().clamp(max=CAP)
            kept = len(part) if keep is None else int(keep[i][start : start + width].sum())
            capped = float(log_truncated >= math.log(CAP))
            row += torch.stack(
                [
                    len(part) * raw,
                    len(part) * raw**2,
                    torch.tensor(len(part) * low),
                    torch.tensor(len(part) * high),
                    len(x) * len(part) * raw**2,
                    kept * weight,
                    kept * weight**2,
                    torch.tensor(len(part) * capped),
                ]
            )
    return row.tolist()


def sequences(lengths: list[int], mismatch: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(n, generator=generator) * mismatch - mismatch**2 / 2 for n in lengths]


def packed(logs: list[Tensor]) -> SequenceBatch:
    return SequenceBatch.packed(torch.cat(logs), torch.tensor([len(x) for x in logs]))


def ladder(logs: list[Tensor], **settings: object) -> Tensor:
    sums = ais_core.build(CorrectionSettings(level="adaptive", **settings)).measure(packed(logs))
    return Sums(sums).section("ladder").view(RUNGS, -1)


# Lengths that 2 divides often take another way than the others; some batches mix both.
lengths = st.lists(st.integers(0, 70) | st.sampled_from([8, 16, 48, 64]), min_size=1, max_size=6)


@given(lengths=lengths, mismatch=st.sampled_from([0.01, 0.3, 1.5]))
def test_every_rung_is_that_of_blocks_cut_by_hand(lengths: list[int], mismatch: float) -> None:
    logs = sequences(lengths, mismatch)
    found = ladder(logs)
    for rung in range(RUNGS):
        assert found[rung].tolist() == pytest.approx(by_hand(logs, rung), rel=1e-4, abs=1e-4), rung


@given(lengths=lengths)
def test_rejections_leave_their_mark_on_the_applied_weights_of_every_rung(lengths: list[int]) -> None:
    logs = sequences(lengths, 0.3)
    found = ladder(logs, rejections=(RejectionSettings(upper=1.2),))
    keep = [x.exp() <= 1.2 for x in logs]
    for rung in range(RUNGS):
        assert found[rung].tolist() == pytest.approx(by_hand(logs, rung, keep), rel=1e-4, abs=1e-4), rung


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("lengths", [[40_000, 3], [65_536, 65_536]])
def test_the_last_rung_holds_sequences_whole_however_long(lengths: list[int], truncate: bool) -> None:
    logs = sequences(lengths, 0.005)
    logs[0][7] = 1.0  # one token over the cap
    found = ladder(logs, truncate_tokens=truncate)
    for rung in (WHOLE - 1, WHOLE):
        expected = by_hand(logs, rung, truncate=truncate)
        assert found[rung].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-2), rung


@given(lengths=lengths, position=st.floats(0, WHOLE))
def test_weights_between_two_rungs_are_the_mixture_of_both(lengths: list[int], position: float) -> None:
    logs = sequences(lengths, 0.3)
    lower = int(position)
    for chunk in packed(logs).chunks():
        levels = Levels(chunk, CorrectionSettings(level="adaptive", mixing=MixingSettings()))
        low, high = levels.between(lower), levels.between(min(lower + 1, WHOLE))
        torch.testing.assert_close(levels.between(position), torch.lerp(low, high, position - lower))
