"""A worker of the judging pool, `python -m ais.collector.judging.worker`: messages come on its standard input.

A message is a length, 8 bytes little-endian, and a pickle: first {"task", "memory_megabytes"}, then (prompt, text,
finish reason) for each response. The worker answers each with a line of JSON on its standard output: {"ready": true} or
{"refused": why}, then {"reward": number} or {"failed": why}, where "memory" is a reason of its own. The pickles come
from the process that started the worker; what the worker says is never unpickled.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

from ais.collector.prompts.prompts import TaskError
from ais.collector.settings import TaskSettings
from ais.collector.tasks.verifiers import Verifier, open_verifier
from ais.runtime.process import die_with_parent

LONGEST_REASON = 500
"""Characters of an error that are told."""


def main() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the collector, which ends us
    requests, replies = sys.stdin.buffer, _own_replies()
    beginning = _read(requests)
    if beginning is None:
        return
    try:
        verifier = open_verifier(TaskSettings.model_validate(beginning["task"]))
    except TaskError as error:
        _reply(replies, {"refused": str(error)})
        return
    _limit_memory(beginning["memory_megabytes"])
    _reply(replies, {"ready": True})
    try:
        while (request := _read(requests)) is not None:
            _reply(replies, _judge(verifier, *request))
    except MemoryError:
        _reply(replies, {"failed": "memory"})


def _judge(verifier: Verifier, prompt: Any, text: str, finish_reason: Any) -> dict[str, Any]:
    try:
        reward = verifier(text, prompt, finish_reason)
    except MemoryError:
        raise
    except Exception as error:  # a verifier may be anybody's code
        return {"failed": f"{type(error).__name__}: {str(error)[:LONGEST_REASON]}"}
    return {"reward": reward if isinstance(reward, int | float) else repr(reward)[:LONGEST_REASON]}


def _own_replies() -> BinaryIO:
    """Standard output for replies alone: whatever a verifier prints goes to standard error."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


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


if __name__ == "__main__":
    main()
