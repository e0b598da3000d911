"""An answer is taken when it is one to the question that was asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.collector.announced import VERSIONS_KEPT, Announced
from ais.collector.replicas.answers import Question
from ais.collector.replicas.proof import Expected, WrongReplicaError
from ais.contracts.model_identity import ModelIdentity
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import MalformedRecordError, PolicySpan, Trajectory
from ais.contracts.v1 import rollout_pb2
from tests.support.trainer_groups import make_trajectory
from tests.unit.collector.replicas.test_dispatch import replica

ASKED = SamplingParameters(temperature=0.7, max_new_tokens=5, seed=2**63 - 1, stop_token_ids=(3, 7))


def answer(index: int = 0, tokens: int = 5, **sampling: Any) -> Trajectory:
    parameters = SamplingParameters.from_proto(ASKED.model_copy(update=sampling).to_proto())
    return replace(make_trajectory("g", index, [4] * tokens), sampling=parameters)


@given(st.permutations(range(4)), st.integers(1, 5))
def test_every_sample_is_taken_once_in_any_order(order: list[int], tokens: int) -> None:
    question, received = Question("g", 4, ASKED), set[int]()
    for index in order:
        question.check(answer(index, tokens), received)
        received.add(index)
    for index in range(10):
        with pytest.raises(MalformedRecordError, match="sample_index"):
            question.check(answer(index, tokens), received)


@given(st.floats(0.01, 100))
def test_the_wires_rounding_of_what_was_asked_is_no_difference(temperature: float) -> None:
    asked = ASKED.model_copy(update={"temperature": temperature})
    Question("g", 1, asked).check(answer(temperature=temperature), ())


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"temperature": 0.70001}, "temperature"),
        ({"top_p": 0.99}, "top_p"),
        ({"top_k": 1}, "top_k"),
        ({"min_p": 0.5}, "min_p"),
        ({"max_new_tokens": 6}, "max_new_tokens"),
        ({"stop_token_ids": (7, 3)}, "stop_token_ids"),
        ({"stop_token_ids": ()}, "stop_token_ids"),
        ({"seed": 2**63 - 2}, "seed"),
        ({"seed": None}, "seed"),
    ],
)
def test_other_sampling_parameters_are_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedRecordError, match=f"trajectory.sampling.{field}: asked for"):
        Question("g", 1, ASKED).check(answer(**changed), ())


def test_more_tokens_than_asked_are_refused() -> None:
    with pytest.raises(MalformedRecordError, match="max_new_tokens = 5, got 6"):
        Question("g", 1, ASKED).check(answer(tokens=6), ())


def sampled(*spans: tuple[int, str]) -> tuple[Trajectory, ...]:
    parts = tuple(PolicySpan(version, index, index + 1, digest) for index, (version, digest) in enumerate(spans))
    return (replace(make_trajectory("g", 0, [4] * len(spans)), spans=parts),)


def test_tokens_of_announced_weights_are_taken_and_others_refused() -> None:
    announced = Announced()
    announced.add(3, "d3")
    announced.add(4, "d4")
    announced.check(sampled((3, "d3"), (4, "d4")))
    for spans in ([(3, "d4")], [(3, "d3"), (4, "random")], [(3, "")], [(5, "d5")]):
        with pytest.raises(MalformedRecordError, match="spans"):
            announced.check(sampled(*spans))
    assert announced.missing(sampled((3, "random"))) is None
    assert announced.missing(sampled((3, "d3"), (5, "d5"), (6, "d6"))) == 6


def test_what_a_trainer_that_died_had_announced_still_counts_for_tokens_and_not_for_work() -> None:
    announced = Announced()
    for version, digest in ((3, "d3"), (4, "first"), (3, "d3"), (4, "second")):
        announced.add(version, digest)
    announced.check(sampled((4, "first")))
    announced.check(sampled((4, "second")))
    assert announced.is_current(4, "second")
    assert not announced.is_current(4, "first")
    announced.add(4, "first")
    assert announced.is_current(4, "first")


def test_only_the_digests_of_the_newest_versions_are_kept() -> None:
    announced = Announced()
    for version in range(3 * VERSIONS_KEPT):
        announced.add(version, f"d{version}")
    assert announced.missing(sampled((0, "d0"))) == 0
    assert announced.missing(sampled((2 * VERSIONS_KEPT, ""))) is None


def test_a_replica_without_a_tokenizer_of_its_own_is_taken() -> None:
    """It samples tokens and needs none."""
    expected = Expected("run", ModelIdentity("blake3:m", "blake3:t"))
    description = rollout_pb2.DescribeResponse(
        replica_id="a", run_name="run", model_digest="blake3:m", model_type="qwen3", vocab_size=23, max_model_len=64
    )
    expected.check(replica("a"), description)
    description.tokenizer_digest = "blake3:other"
    with pytest.raises(WrongReplicaError, match="tokenizer_digest: expected blake3:t, got blake3:other"):
        expected.check(replica("a"), description)


def test_the_words_of_a_wrong_replica_are_printable() -> None:
    description = rollout_pb2.DescribeResponse(replica_id="\x1b[2J\n" * 10_000)
    with pytest.raises(WrongReplicaError) as refused:
        Expected("run", ModelIdentity("", "")).check(replica("a"), description)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500
