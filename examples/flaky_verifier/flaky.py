"""A verifier that sometimes hangs, crashes, or worse, as code that runs what a policy writes may do."""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from collections.abc import Callable
from typing import Any

ONE_IN = 12
"""Each misdeed happens to one response in so many."""


def judge(response: str, answer: str, metadata: dict[str, Any], finish_reason: str) -> Any:  # noqa: ARG001
    """Share of the digits in their places, when all goes well. Put your own judgement here."""
    if misdeed := misdeed_of(response):
        return MISDEEDS[misdeed]()
    right = sum(given == wanted for given, wanted in zip(response, answer, strict=False))
    return {"places": right / len(answer), "exact": float(response == answer)}


def misdeed_of(response: str) -> str | None:
    """What goes wrong with a response: always the same."""
    number = hashlib.sha256(response.encode()).digest()[0] % ONE_IN
    return list(MISDEEDS)[number] if number < len(MISDEEDS) else None


def hang() -> None:
    time.sleep(1000)


def crash() -> None:
    ctypes.string_at(0)


def take_ten_gigabytes() -> float:
    return float(len(bytearray(10 * 1024**3)))


def leave_a_process_behind() -> float:
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
        os._exit(0)
    return 1.0


MISDEEDS: dict[str, Callable[[], Any]] = {
    "overtime": hang,
    "died": crash,
    "memory": take_ten_gigabytes,
    "left_processes": leave_a_process_behind,
    "no_reward": lambda: float("nan"),
    "error": lambda: 1 / 0,
}
"""By the outcome that each is counted under."""
