"""A record survives the wire unchanged, and nothing malformed gets through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.contracts.limits import (
    _FIELDS,
    LARGEST_REWARD,
    LONGEST_NAME,
    LOWEST_LOGPROB,
    OTHER_FIELD,
    field_label,
)
from ais.contracts.sampling import SamplingParameters
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
from tests.support.records import trajectory_of

VOCABULARY = 100
DIGEST = "blake3:" + 64 * "a"
BOUNDS = TrajectoryBounds(vocab_size=VOCABULARY, newest_version=7)


def make_trajectory(tokens: int = 5, index: int = 0, group: str = "g") -> Trajectory:
    generator = np.random.default_rng(index)
    return trajectory_of(
        generator.integers(0, VOCABULARY, tokens).astype(np.int32),
        group,
        index,
        -generator.random(tokens).astype(np.float32),
        spans=(PolicySpan(3, 0, 2, DIGEST), PolicySpan(4, 2, tokens, DIGEST))
        if tokens > 2
        else (PolicySpan(3, 0, tokens),),
        sampling=SamplingParameters(temperature=0.5, seed=1),
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
    "reward is NaN": (lambda g: g.rewards.__setitem__(0, float("nan")), "rewards[0]"),
    "reward is infinite": (lambda g: g.rewards.__setitem__(1, float("-inf")), "rewards[1]"),
    "reward whose square overflows": (lambda g: g.rewards.__setitem__(0, 3e38), "rewards[0]"),
    "reward no verifier gives": (lambda g: g.rewards.__setitem__(1, -1.1e6), "rewards[1]"),
    "ordinal no run reaches": (lambda g: setattr(g, "ordinal", 2**63 - 1), "ordinal"),
    "group id of 20 MB": (lambda g: setattr(g, "group_id", "g" * 20_000_000), "group_id"),
    "prompt id of 2 MB": (lambda g: setattr(g, "prompt_id", "p" * 2_000_000), "prompt_id"),
    "task name of 2,000 characters": (lambda g: setattr(g, "task", "t" * 2_000), "task"),
    "trajectory id of 20 MB": (
        lambda g: setattr(g.trajectories[0], "trajectory_id", "t" * 20_000_000),
        "trajectories[0].trajectory_id",
    ),
    "engine name of 2,000 characters": (
        lambda g: setattr(g.trajectories[1], "engine", "e" * 2_000),
        "trajectories[1].engine",
    ),
    "replica id of 2,000 characters": (
        lambda g: setattr(g.trajectories[1], "replica_id", "e" * 2_000),
        "trajectories[1].replica_id",
    ),
    "time is NaN": (
        lambda g: setattr(g.trajectories[0].timings, "total_seconds", float("nan")),
        "trajectories[0].timings.total_seconds",
    ),
    "negative time": (
        lambda g: setattr(g.trajectories[0].timings, "first_token_seconds", -1.0),
        "trajectories[0].timings.first_token_seconds",
    ),
    "infinite time": (
        lambda g: setattr(g.trajectories[0].timings, "total_seconds", float("inf")),
        "trajectories[0].timings.total_seconds",
    ),
    "log-prob no token can have": (
        lambda g: setattr(g.trajectories[0], "behaviour_logprobs", floats(-1, -1, -3e38, -1, -1)),
        "trajectories[0].behaviour_logprobs",
    ),
    "log-prob just below the floor": (
        lambda g: setattr(g.trajectories[0], "behaviour_logprobs", floats(-1, -1, -1001, -1, -1)),
        "trajectories[0].behaviour_logprobs",
    ),
    "version that no counter reaches": (
        lambda g: setattr(g.trajectories[0].spans[1], "version", 2**63),
        "trajectories[0].spans[1].version",
    ),
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
    "digest of 2,000 characters": (
        lambda g: setattr(g.trajectories[0].spans[0], "digest", "d" * 2_000),
        "trajectories[0].spans[0].digest",
    ),
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
    assert len(str(refused.value)) < 1_000


@given(
    rewards=st.lists(st.floats(-LARGEST_REWARD, LARGEST_REWARD, width=32), min_size=2, max_size=2),
    logprobs=st.lists(st.floats(LOWEST_LOGPROB, float(np.float32(9e-5)), width=32), min_size=5, max_size=5),
)
def test_all_values_within_the_limits_are_taken_as_they_are(rewards: list[float], logprobs: list[float]) -> None:
    message = pb.ScoredGroup.FromString(encode_group(make_group()))
    message.rewards[:] = rewards
    message.trajectories[0].behaviour_logprobs = floats(*logprobs)
    decoded = decode_group(message.SerializeToString(), BOUNDS)
    assert decoded.rewards == tuple(rewards)
    assert decoded.trajectories[0].behaviour_logprobs.tolist() == logprobs


ANY_NUMBER = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(
    rewards=st.lists(ANY_NUMBER, min_size=2, max_size=2),
    logprobs=st.lists(ANY_NUMBER, min_size=5, max_size=5),
    name=st.text(max_size=2_000),
)
def test_what_is_taken_never_overflows_whatever_numbers_came(
    rewards: list[float], logprobs: list[float], name: str
) -> None:
    message = pb.ScoredGroup.FromString(encode_group(make_group()))
    message.rewards[:] = rewards
    message.task = name
    message.trajectories[0].behaviour_logprobs = floats(*logprobs)
    try:
        decoded = decode_group(message.SerializeToString(), BOUNDS)
    except MalformedRecordError:
        return
    squares = np.square(np.array(decoded.rewards, dtype=np.float32))
    assert np.isfinite(squares.sum())
    assert np.isfinite(np.square(decoded.trajectories[0].behaviour_logprobs).sum())
    assert len(decoded.task) <= LONGEST_NAME


def test_the_words_of_a_peer_in_a_reason_are_printable_and_short() -> None:
    message = pb.ScoredGroup.FromString(encode_group(make_group()))
    message.trajectories[0].precision.weights = "\x1b[2J\n" + "x" * 5_000_000
    message.trajectories[1].group_id = "other\x1b]0;title\x07"
    for _ in range(2):
        with pytest.raises(MalformedRecordError) as refused:
            decode_group(message.SerializeToString(), BOUNDS)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 1_000
        message.trajectories[0].precision.weights = "e4m3"


@given(st.one_of(st.text(max_size=300), st.from_regex(r"trajectories\[\d{1,9}\]\.spans\[\d{1,9}\]\.version")))
def test_the_labels_of_refused_fields_are_a_closed_set(field: str) -> None:
    assert field_label(field) in {"trajectories.spans.version", OTHER_FIELD} | _FIELDS


@pytest.mark.parametrize(
    ("field", "label"),
    [
        ("trajectories[3].token_ids", "trajectories.token_ids"),
        ("trajectory.sampling.stop_token_ids.17", "trajectory.sampling.stop_token_ids"),
        ("rewards[0]", "rewards"),
        ("staleness", "staleness"),
        ("group_id.of.a.peer", "other"),
        ("x" * 1000, "other"),
        ("", "other"),
    ],
)
def test_a_field_is_counted_without_its_indices(field: str, label: str) -> None:
    assert field_label(field) == label


def test_every_field_that_can_be_refused_has_a_label_of_its_own() -> None:
    labels = {field_label(field) for _, field in MALFORMED.values()}
    assert OTHER_FIELD not in labels


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_not_crashed_on(data: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        decode_group(data, BOUNDS)
