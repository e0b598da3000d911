"""Borders that break, for tests of the fuzzing itself."""

from __future__ import annotations

from benchmarks.fuzz.target import Target, Targets


def _raises(content: bytes) -> None:
    if b"!" in content:
        raise KeyError("what no border may raise")
    raise ValueError("refused")


TARGETS: Targets = {"raises": Target(_raises, (ValueError,), (b"seed", b"seed!"))}
