"""What a worker process replies, a line of JSON, read by the collector. Pure.

A worker runs code of others: whatever it writes is a reply, or `WorkerDiedError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ais.collector.judging.judgement import Failure, Judgement, Outcome, judgement_of


class WorkerDiedError(Exception):
    """The worker has ended, or says what nobody understands."""


def reply_in(line: bytes) -> dict[str, Any]:
    """Raises WorkerDiedError for a line that is no object of JSON."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise WorkerDiedError(f"the worker's reply is none: {line[:80]!r}")
    return reply


def judgement_in(reply: Mapping[str, Any]) -> Judgement:
    """What a verifier gave. A single number stands under an empty name."""
    scores = reply.get("scores")
    if isinstance(scores, dict) and scores.keys() == {""}:
        return judgement_of(scores[""])
    return judgement_of(scores)


def failure_in(reply: Mapping[str, Any]) -> Failure:
    """Why the worker has no answer: `failed` is an `Outcome`, or it is an error."""
    failed = reply["failed"]
    outcome = Outcome(failed) if isinstance(failed, str) and failed in set(Outcome) else Outcome.ERROR
    return Failure(outcome, str(reply.get("reason", "judging needed more than collector.judging.memory_megabytes")))
