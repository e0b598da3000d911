"""What an engine takes in."""

from __future__ import annotations

import pytest

from ais.contracts.sampling import SamplingParameters
from ais.rollout.engine import EngineFullError, GenerationRequest, InvalidRequestError
from ais.rollout.engines.limits import Limits

LIMITS = Limits(vocab_size=100, max_model_len=8, room=10)


def request(prompt: tuple[int, ...] = (1, 2), samples: int = 1, stops: tuple[int, ...] = ()) -> GenerationRequest:
    return GenerationRequest("group", prompt, samples, SamplingParameters(stop_token_ids=stops))


def test_a_request_that_fits_is_taken() -> None:
    LIMITS.check(request(prompt=(99,) * 7, samples=4, stops=(0,)), outstanding=6)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (request(prompt=()), "prompt_token_ids"),
        (request(prompt=(1,) * 8), "prompt_token_ids"),
        (request(prompt=(100,)), "prompt_token_ids"),
        (request(prompt=(-1,)), "prompt_token_ids"),
        (request(stops=(100,)), "sampling.stop_token_ids"),
        (request(stops=tuple(range(17))), "sampling.stop_token_ids"),
        (request(samples=0), "samples"),
        (request(samples=11), "samples"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_no_engine_could_serve_names_its_field(wrong: GenerationRequest, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        LIMITS.check(wrong, outstanding=0)
    assert caught.value.field == field


@pytest.mark.parametrize(("temperature", "taken"), [(0.0, True), (0.01, True), (0.0099, False), (1e-38, False)])
def test_a_temperature_below_the_lowest_is_refused_but_greedy_is_not(temperature: float, taken: bool) -> None:
    limits = Limits(vocab_size=100, max_model_len=8, room=10, lowest_temperature=0.01)
    asked = GenerationRequest("group", (1,), 1, SamplingParameters(temperature=temperature))
    if taken:
        limits.check(asked, outstanding=0)
    else:
        with pytest.raises(InvalidRequestError, match=r"sampling\.temperature: expected 0"):
            limits.check(asked, outstanding=0)


def test_a_request_there_is_no_room_for_now_may_come_again() -> None:
    with pytest.raises(EngineFullError) as caught:
        LIMITS.check(request(samples=4), outstanding=7)
    assert caught.value.retry_after_seconds > 0
