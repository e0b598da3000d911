"""Borders that read bytes of others: kept inputs and mutations of them are taken or refused, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.fuzz.campaign import campaign
from benchmarks.fuzz.corpus import CORPUS, kept
from benchmarks.fuzz.progress import PROGRESS, Progress
from benchmarks.fuzz.target import Target
from benchmarks.fuzz.targets import PLACES

MUTATIONS = 300
"""For each border. `ais bench fuzz` makes millions, guided by coverage."""


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, cut out, repeated or put in."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        begin = draw.randrange(len(changed) + 1)
        end = min(len(changed), begin + draw.choice((0, 1, 1, 2, 8, 64)))
        changed[begin:end] = draw.choice(
            (draw.randbytes(max(1, end - begin)), bytes(changed[begin:end]) * 2, b"", b"9" * 400, b"\xff" * 9)
        )
    return bytes(changed)


@pytest.fixture(params=PLACES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def target(name: str) -> Target:
    return PLACES[name].target(name)


def test_every_border_has_a_seed_that_it_takes(target: Target) -> None:
    assert any(target.takes(seed) for seed in target.seeds)


def test_what_was_found_before_is_taken_or_refused(name: str, target: Target) -> None:
    for content in kept(name):
        target.takes(content)


def test_mutations_are_taken_or_refused(name: str, target: Target) -> None:
    draw, inputs = random.Random(name), [*target.seeds, *kept(name)]
    for _ in range(MUTATIONS):
        target.takes(mutated(draw.choice(inputs), draw))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_input_that_breaks_a_border_is_counted_and_kept(tmp_path: Path) -> None:
    outcome = campaign("tests.support.fuzzing.broken_border", "raises", tmp_path, 100, seed=0, most_crashes=1)
    (crash,) = outcome.crashes
    assert b"!" in crash.read_bytes()


def test_what_is_kept_is_of_borders_that_exist() -> None:
    assert {file.stem for file in CORPUS.glob("*")} <= PLACES.keys()


def test_what_a_campaign_used_is_told_over_all_its_runs(tmp_path: Path) -> None:
    """It is stopped and goes on for hours: what the last run alone did says nothing of a rate."""
    for seconds, megabytes in ((1.5, 300.0), (0.25, 200.0)):
        Progress(tmp_path / PROGRESS).use(seconds, megabytes)
    assert (Progress(tmp_path / PROGRESS).processor_seconds, Progress(tmp_path / PROGRESS).megabytes) == (1.75, 300.0)
