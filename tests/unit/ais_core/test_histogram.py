"""The grids that log-ratios and weights are counted on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ais_core.diagnostics.histogram import (
    FINE_BINS,
    LOG_BINS,
    LOG_STEP,
    add_up,
    count,
    fine_edge,
    fine_magnitudes,
    log_bins,
    log_centre,
)


@given(magnitude=st.floats(2.0**-19, 63.5, width=32), sign=st.sampled_from([-1.0, 1.0]))
def test_a_fine_bin_holds_its_values_and_is_a_64th_of_an_octave_wide(magnitude: float, sign: float) -> None:
    (index,) = fine_magnitudes(torch.tensor([sign * magnitude])).tolist()
    assert fine_edge(index) <= magnitude < fine_edge(index + 1)
    assert fine_edge(index + 1) / fine_edge(index) <= 1 + 1 / 64


@pytest.mark.parametrize(("value", "index"), [(0.0, 0), (1e-30, 0), (1e9, FINE_BINS - 1), (-1e9, FINE_BINS - 1)])
def test_what_is_smaller_or_larger_than_all_bins_falls_into_the_first_or_the_last(value: float, index: int) -> None:
    assert fine_magnitudes(torch.tensor([value])).tolist() == [index]


@given(log_weight=st.floats(-20.0, 20.0))
def test_a_bin_of_log_weights_is_centred_within_half_a_step(log_weight: float) -> None:
    (index,) = log_bins(torch.tensor([log_weight], dtype=torch.float64)).tolist()
    assert 0 <= index < LOG_BINS
    assert abs(log_centre(index) - log_weight) <= LOG_STEP / 2 + 1e-9
    assert log_centre(LOG_BINS // 2) == 0.0


@pytest.mark.parametrize("weighted", [False, True])
def test_counting_without_the_host_gives_what_counting_gives(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, 7, (50,), generator=generator, dtype=torch.int32)
    weights = torch.rand(50, generator=generator) if weighted else None
    torch.testing.assert_close(add_up(places, 9, weights), count(places, 9, weights).double(), rtol=1e-6, atol=1e-6)
