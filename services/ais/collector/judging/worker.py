"""A worker of the judging pool, run by `ais.collector.judging.keeper`: messages come on its standard input.

A message is a length, 8 bytes little-endian, and a pickle: first {"verifiers", "environments", "memory_megabytes"},
then (source, component, prompt, response) for each judgement, a Reset or an Answer for each call of an environment. The
worker answers each with a line of JSON on its standard output: {"ready": true} or {"refused": why}, then
{"scores": {name: number}}, what `environments.calls` gives, or {"failed": outcome, "reason": why}. The pickles come
from the process that started the worker; what the worker says is never unpickled outside of workers.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ais.collector.environments.calls import Answer, Reset, answered, opened
from ais.collector.environments.opening import Make, open_environment
from ais.collector.judging.judgement import Failure, Judgement, Outcome, judgement_of
from ais.collector.judging.keeper import adopt_orphans
from ais.collector.prompts.prompts import TaskError
from ais.collector.rewards.opening import open_verifier
from ais.collector.rewards.response import Verifier
from ais.runtime.text import printable

LONGEST_REASON = 400
"""Characters of an error that are told."""

Verifiers = Mapping[tuple[str, int], Verifier]
"""By source and place of the component in its reward."""


def main() -> None:
    adopt_orphans()
    requests, replies = _own_streams()
    beginning = _read(requests)
    if beginning is None:
        return
    try:
        verifiers = {place: open_verifier(*settings) for place, settings in beginning["verifiers"].items()}
        environments = {name: open_environment(settings) for name, settings in beginning["environments"].items()}
    except TaskError as error:
        _reply(replies, {"refused": str(error)})
        return
    _limit_memory(beginning["memory_megabytes"])
    _reply(replies, {"ready": True})
    process = os.getpid()
    try:
        while (request := _read(requests)) is not None:
            reply = _answer(request, verifiers, environments)
            if os.getpid() != process:
                os._exit(0)  # a copy that a verifier forked and let return
            if _left_processes():
                reason = "the verifier or environment started processes and left them running"
                reply = _failed(Failure(Outcome.LEFT_PROCESSES, reason))
            _reply(replies, reply)
    except MemoryError:
        _reply(replies, {"failed": Outcome.MEMORY})


def _answer(request: Any, verifiers: Verifiers, environments: Mapping[str, Make]) -> dict[str, Any]:
    """Raises MemoryError; everything else that is raised is a failure that is told."""
    try:
        match request:
            case Reset(source, prompt):
                return opened(environments[source], prompt)
            case Answer(state, turn):
                return answered(state, turn)
        source, component, prompt, response = request
        return _told(judgement_of(verifiers[source, component](response, prompt)))
    except MemoryError:
        raise
    except BaseException as error:  # it may be anybody's code, and may call sys.exit
        who = "environment" if isinstance(request, Reset | Answer) else "verifier"
        return _failed(Failure(Outcome.ERROR, f"the {who} raised {type(error).__name__}: {error}"))


def _told(judgement: Judgement) -> dict[str, Any]:
    return _failed(judgement) if isinstance(judgement, Failure) else {"scores": dict(judgement)}


def _failed(failure: Failure) -> dict[str, Any]:
    return {"failed": failure.outcome, "reason": printable(failure.reason, LONGEST_REASON)}


def _left_processes() -> bool:
    """Whether a process that a verifier started still runs; those that have ended are reaped."""
    while True:
        try:
            process, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if process == 0:
            return True


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for messages alone: a verifier reads nothing, and what it prints goes to standard
    error. Processes that it starts do not have them."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


def _limit_memory(megabytes: int) -> None:
    """Lets the process have `megabytes` more than it has now. (Linux only.)"""
    if sys.platform.startswith("linux"):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        bound = pages * resource.getpagesize() + megabytes * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def _read(requests: BinaryIO) -> Any:
    """The next message; None at the end."""
    header = requests.read(8)
    if len(header) < 8:
        return None
    (length,) = struct.unpack("<Q", header)
    packed = requests.read(length)
    return pickle.loads(packed) if len(packed) == length else None


def _reply(replies: BinaryIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()
