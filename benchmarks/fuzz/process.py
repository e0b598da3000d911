"""The process that feeds one target, guided by coverage, until it has had its inputs or one of them breaks it.

libFuzzer, inside atheris, mutates the inputs and keeps those that reach new lines of ours. It never returns.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import atheris

from benchmarks.fuzz.progress import CORPUS, PROGRESS, Progress
from benchmarks.fuzz.targets import Place

INSTRUMENTED = ["ais"]
"""Packages whose lines guide the search."""


def main() -> None:
    """MODULE NAME DIRECTORY [OPTION ...]: feeds target NAME of the module; libFuzzer has its options."""
    module, name, directory, *options = sys.argv[1:]
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = Place(module).target(name)
    progress, corpus = Progress(Path(directory) / PROGRESS), Path(directory) / CORPUS
    for number, content in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(content)

    def feed(content: bytes) -> None:
        began = time.perf_counter_ns()
        progress.count(target.takes(content), time.perf_counter_ns() - began)

    atheris.Setup([sys.argv[0], *options, str(corpus)], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
