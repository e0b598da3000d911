"""What workers and reward services reply, whatever it is, is a judgement or a failure."""

from __future__ import annotations

import json

import pytest

from ais.collector.judging.judgement import Failure, Outcome
from ais.collector.judging.replies import WorkerDiedError, failure_in, judgement_in, reply_in
from ais.collector.judging.service import judgements_in

BEYOND_FLOATS = 10**400


@pytest.mark.parametrize("score", [BEYOND_FLOATS, -BEYOND_FLOATS, {"format": BEYOND_FLOATS}])
def test_a_whole_number_beyond_all_floats_is_no_score_of_a_service(score: object) -> None:
    (judgement,) = judgements_in(json.dumps({"scores": [score]}).encode(), 1)
    assert isinstance(judgement, Failure)
    assert judgement.outcome is Outcome.NO_REWARD


def test_a_whole_number_beyond_all_floats_is_no_score_of_a_worker() -> None:
    assert isinstance(judgement_in({"scores": {"": BEYOND_FLOATS}}), Failure)


@pytest.mark.parametrize("failed", [[], {}, 3, None, "a failure of tomorrow"])
def test_a_failure_of_an_unknown_kind_is_an_error(failed: object) -> None:
    assert failure_in({"failed": failed, "reason": "why"}) == Failure(Outcome.ERROR, "why")


@pytest.mark.parametrize("line", [b"[" * 100_000 + b"\n", b"\xff\n", b"[]\n", b"{\n"])
def test_a_line_that_is_no_object_says_that_the_worker_is_broken(line: bytes) -> None:
    with pytest.raises(WorkerDiedError, match="reply is none"):
        reply_in(line)
