"""A record survives the wire unchanged, and nothing malformed gets through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import (
    LONGEST_ANSWER,
    MalformedRecordError,
    PolicySpan,
    ScoredGroup,
    Trajectory,
    TrajectoryBounds,
    decode_group,
    encode_group,
    encode_trajectory,
)
from ais.contracts.v1 import trajectory_pb2 as pb

VOCABULARY = 100
BOUNDS = TrajectoryBounds(vocab_size=VOCABULARY, newest_version=7)


def make_trajectory(tokens: int = 5, index: int = 0, group: str = "g") -> Trajectory:
    generator = np.random.default_rng(index)
    return Trajectory(
        trajectory_id=f"{group}/{index}",
        group_id=group,
        sample_index=index,
        token_ids=generator.integers(0, VOCABULARY, tokens).astype(np.int32),
        behaviour_logprobs=-generator.random(tokens).astype(np.float32),
        spans=(PolicySpan(3, 0, 2), PolicySpan(4, 2, tokens)) if tokens > 2 else (PolicySpan(3, 0, tokens),),
        finish_reason=FinishReason.STOP,
        sampling=SamplingParameters(temperature=0.5, seed=1),
        precision=Precision(),
        engine="torch",
        engine_version="1",
        replica_id="r",
        first_token_seconds=0.25,
        total_seconds=1.5,
    )


def make_group(samples: int = 2) -> ScoredGroup:
    return ScoredGroup(
        group_id="g",
        ordinal=9,
        prompt_id="p",
        prompt_token_ids=np.arange(4, dtype=np.int32),
        trajectories=tuple(make_trajectory(index=index) for index in range(samples)),
        rewards=tuple(float(index) for index in range(samples)),
        task="t",
        attempt=1,
    )


def assert_same(left: Trajectory, right: Trajectory) -> None:
    for name in left.__dataclass_fields__:
        expected, got = getattr(left, name), getattr(right, name)
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(expected, got)
            assert expected.dtype == got.dtype
        else:
            assert expected == got, name


@given(tokens=st.integers(1, 64), samples=st.integers(1, 5))
def test_a_group_comes_back_from_the_wire_as_it_was(tokens: int, samples: int) -> None:
    group = ScoredGroup(
        **{
            **make_group().__dict__,
            "trajectories": tuple(make_trajectory(tokens, index) for index in range(samples)),
            "rewards": (0.5,) * samples,
        }
    )
    decoded = decode_group(encode_group(group), BOUNDS)
    assert (decoded.group_id, decoded.ordinal, decoded.rewards) == (group.group_id, group.ordinal, group.rewards)
    np.testing.assert_array_equal(decoded.prompt_token_ids, group.prompt_token_ids)
    for left, right in zip(group.trajectories, decoded.trajectories, strict=True):
        assert_same(left, right)


@pytest.mark.parametrize("answer", ["", "42", "é" * LONGEST_ANSWER, "x" * 1_000_000])
def test_an_answer_comes_back_cut_to_what_is_sent(answer: str) -> None:
    assert decode_group(encode_group(replace(make_group(), answer=answer)), BOUNDS).answer == answer[:LONGEST_ANSWER]


def test_a_4k_token_trajectory_costs_about_8_bytes_a_token() -> None:
    size = len(encode_trajectory(make_trajectory(4096)).SerializeToString())
    assert size <= 4096 * 8 + 300


def test_sampling_without_a_seed_stays_without_a_seed() -> None:
    assert SamplingParameters.from_proto(SamplingParameters().to_proto()).seed is None


def floats(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def ints(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


MALFORMED: dict[str, tuple[Callable[[pb.ScoredGroup], None], str]] = {
    "unknown layout": (lambda g: setattr(g, "schema_version", 99), "schema_version"),
    "no group id": (lambda g: setattr(g, "group_id", ""), "group_id"),
    "no trajectories": (lambda g: g.ClearField("trajectories"), "trajectories"),
    "fewer rewards than trajectories": (lambda g: g.rewards.pop(), "rewards"),
    "reward is NaN": (lambda g: g.rewards.__setitem__(0, float("nan")), "rewards"),
    "empty prompt": (lambda g: setattr(g, "prompt_token_ids", b""), "prompt_token_ids"),
    "prompt outside the vocabulary": (lambda g: setattr(g, "prompt_token_ids", ints(VOCABULARY)), "prompt_token_ids"),
    "no tokens": (lambda g: setattr(g.trajectories[1], "token_ids", b""), "trajectories[1].token_ids"),
    "half a token": (lambda g: setattr(g.trajectories[1], "token_ids", b"abc"), "trajectories[1].token_ids"),
    "token outside the vocabulary": (
        lambda g: setattr(g.trajectories[0], "token_ids", ints(1, 2, 3, 4, VOCABULARY)),
        "trajectories[0].token_ids",
    ),
    "negative token": (
        lambda g: setattr(g.trajectories[0], "token_ids", ints(1, 2, -3, 4, 5)),
        "trajectories[0].token_ids",
    ),
    "fewer log-probs than tokens": (
        lambda g: setattr(g.trajectories[0], "behaviour_logprobs", floats(-1, -1)),
        "trajectories[0].behaviour_logprobs",
    ),
    "log-prob is NaN": (
        lambda g: setattr(g.trajectories[0], "behaviour_logprobs", floats(-1, -1, float("nan"), -1, -1)),
        "trajectories[0].behaviour_logprobs",
    ),
    "log-prob is minus infinity": (
        lambda g: setattr(g.trajectories[0], "behaviour_logprobs", floats(-1, -1, float("-inf"), -1, -1)),
        "trajectories[0].behaviour_logprobs",
    ),
    "positive log-prob": (
        lambda g: setattr(g.trajectories[0], "behaviour_logprobs", floats(-1, -1, 0.1, -1, -1)),
        "trajectories[0].behaviour_logprobs",
    ),
    "spans end early": (lambda g: g.trajectories[0].spans.pop(), "trajectories[0].spans"),
    "spans leave a gap": (
        lambda g: setattr(g.trajectories[0].spans[1], "begin", 3),
        "trajectories[0].spans[1]",
    ),
    "empty span": (lambda g: setattr(g.trajectories[0].spans[0], "end", 0), "trajectories[0].spans[0]"),
    "unknown version": (
        lambda g: setattr(g.trajectories[0].spans[1], "version", 8),
        "trajectories[0].spans[1].version",
    ),
    "version goes back": (
        lambda g: setattr(g.trajectories[0].spans[1], "version", 1),
        "trajectories[0].spans[1].version",
    ),
    "no finish reason": (lambda g: setattr(g.trajectories[0], "finish_reason", 0), "trajectories[0].finish_reason"),
    "negative temperature": (
        lambda g: setattr(g.trajectories[0].sampling, "temperature", -1.0),
        "trajectories[0].sampling.temperature",
    ),
    "unknown precision": (
        lambda g: setattr(g.trajectories[0].precision, "weights", "fp3"),
        "trajectories[0].precision.weights",
    ),
    "trajectory of another group": (
        lambda g: setattr(g.trajectories[0], "group_id", "other"),
        "trajectories[0].group_id",
    ),
    "an answer longer than is sent": (lambda g: setattr(g, "answer", "x" * (LONGEST_ANSWER + 1)), "answer"),
    "the same trajectory twice": (lambda g: g.trajectories[1].CopyFrom(g.trajectories[0]), "trajectories"),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_group_is_refused_with_field_and_reason(fault: str) -> None:
    spoil, field = MALFORMED[fault]
    message = pb.ScoredGroup.FromString(encode_group(make_group()))
    spoil(message)
    with pytest.raises(MalformedRecordError) as refused:
        decode_group(message.SerializeToString(), BOUNDS)
    assert refused.value.field == field
    assert refused.value.reason


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_not_crashed_on(data: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        decode_group(data, BOUNDS)
