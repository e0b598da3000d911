"""What a verifier of the user's may do wrong: each costs one counted failure with its reason and leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ais.collector.judging.judge import Judge
from ais.collector.judging.judgement import Outcome
from ais.collector.judging.opening import open_judge
from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.settings import CollectorSettings, JudgingSettings, TaskSettings
from ais.runtime.process import UnavailableError
from tests.support.judges import ended

VERIFIER = '''
import asyncio, ctypes, os, subprocess, sys, time

def judge(response, answer, metadata, finish_reason):
    return DEEDS[response]()

async def patient(response, answer, metadata, finish_reason):
    await asyncio.sleep(0.001)
    return float(response == answer) + metadata["more"] + (finish_reason == "stop")

def detached():
    """A child of a child that has ended, in a session of its own."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.wait()

def crashed_with_a_child():
    detached()
    ctypes.string_at(0)

def forked_and_both_return():
    os.fork()
    return 1.0

def left_a_child():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], env={})
    return 1.0

def left_an_orphan():
    detached()
    return 1.0

def printed():
    print("x" * 100_000)
    sys.stdout.close()
    return 1.0

def closed_everything():
    os.closerange(0, 100)
    return 1.0

def read():
    return float(sys.stdin.read() == "")

DEEDS = {
    "right": lambda: 1,
    "parts": lambda: {"style": 0.5, "sense": 2},
    "hang": lambda: time.sleep(1000),
    "spin": lambda: sum(0 for _ in iter(int, 1)),
    "segfault": lambda: ctypes.string_at(0),
    "crash with a child": crashed_with_a_child,
    "ten gigabytes": lambda: len(bytearray(10 * 1024**3)),
    "exit": lambda: sys.exit(0),
    "raise": lambda: 1 / 0,
    "recurse": lambda: (lambda f: f(f))(lambda f: f(f)),
    "nan": lambda: float("nan"),
    "none": lambda: None,
    "bool": lambda: True,
    "list": lambda: [1.0] * 10_000_000,
    "infinite": lambda: float("inf"),
    "huge": lambda: 1e5,
    "bad part": lambda: {"style": None},
    "bad name": lambda: {"a b": 1.0},
    "fork": forked_and_both_return,
    "child": left_a_child,
    "orphan": left_an_orphan,
    "print": printed,
    "close": closed_everything,
    "read": read,
}
'''


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("verifier")
    (directory / "misdeeds.py").write_text(VERIFIER, encoding="utf-8")
    return directory


@asynccontextmanager
async def judge(module: Path, name: str = "judge", **judging: Any) -> AsyncIterator[Judge]:
    component = {"verifier": "function", "function": f"misdeeds:{name}", "directory": str(module), "name": "own"}
    settings = CollectorSettings(
        task=TaskSettings.model_validate({"reward": [component]}),
        judging=JudgingSettings.model_validate({"workers": 1, "seconds": 3.0} | judging),
    )
    async with open_judge(settings) as opened:
        yield opened


async def outcomes(judge: Judge, *texts: str) -> list[str]:
    """What became of each response, judged one after the other: its reward, or why it has none."""
    found = []
    for text in texts:
        judged = await judge.judge(Prompt("p", "q", "a"), [ended(text)])
        failures = [failure for part in judged.components for failure in part.failures]
        found.append(failures[0].outcome if failures else str(judged.rewards[0]))
    return found


def below() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


async def test_what_a_verifier_gives_that_is_no_score_is_refused_and_keeps_its_worker(module: Path) -> None:
    refused = ["nan", "none", "bool", "list", "infinite", "huge", "bad part", "bad name"]
    async with judge(module) as opened:
        workers = below()
        assert await outcomes(opened, *refused, "right") == [Outcome.NO_REWARD] * len(refused) + ["1.0"]
        assert await outcomes(opened, "raise", "exit", "recurse", "right") == [Outcome.ERROR] * 3 + ["1.0"]
        assert below() == workers


async def test_what_hangs_dies_or_takes_all_memory_costs_its_worker(module: Path) -> None:
    before = below()
    async with judge(module, memory_megabytes=512) as opened:
        assert await outcomes(opened, "hang", "right", "segfault", "right", "ten gigabytes", "right", "spin") == [
            Outcome.OVERTIME, "1.0", Outcome.DIED, "1.0", Outcome.MEMORY, "1.0", Outcome.OVERTIME,
        ]  # fmt: skip
        assert await outcomes(opened, "close", "right") == [Outcome.DIED, "1.0"]
    assert below() <= before


async def test_processes_that_a_verifier_leaves_behind_are_ended_with_its_worker(module: Path) -> None:
    before = below()
    everything = set(psutil.process_iter())
    async with judge(module) as opened:
        assert await outcomes(opened, "child", "right", "orphan", "right") == [
            Outcome.LEFT_PROCESSES, "1.0", Outcome.LEFT_PROCESSES, "1.0",
        ]  # fmt: skip
        assert await outcomes(opened, "crash with a child", "right") == [Outcome.DIED, "1.0"]
        assert await outcomes(opened, "fork", "right") in (
            [Outcome.LEFT_PROCESSES, "1.0"],  # the copy still runs
            ["1.0", "1.0"],
        )
    assert below() <= before
    assert not [process for process in set(psutil.process_iter()) - everything if _is_a_misdeed(process)]


async def test_what_a_verifier_prints_and_reads_is_not_the_collectors(module: Path) -> None:
    async with judge(module) as opened:
        assert await outcomes(opened, "print", "read", "right") == ["1.0", "1.0", "1.0"]


async def test_why_a_worker_died_is_told(module: Path) -> None:
    async with judge(module) as opened:
        judged = await opened.judge(Prompt("p", "q", "a"), [ended("segfault")])
    ((failure,),) = [part.failures for part in judged.components]
    assert "SIGSEGV" in failure.text


async def test_several_scores_are_components_of_their_own(module: Path) -> None:
    async with judge(module) as opened:
        judged = await opened.judge(Prompt("p", "q", "a"), [ended("parts"), ended("nan")])
    assert judged.rewards == (2.5, 0.0)
    assert {part.name: part.scores for part in judged.components} == {
        "own.style": (0.5, 0.0),
        "own.sense": (2.0, 0.0),
    }


async def test_an_async_function_is_given_answer_metadata_and_finish_reason(module: Path) -> None:
    async with judge(module, "patient") as opened:
        judged = await opened.judge(Prompt("p", "q", "a", {"more": 5}), [ended("a"), ended("b")])
    assert judged.rewards == (7.0, 6.0)


async def test_a_function_that_is_not_there_stops_the_pool_from_opening(module: Path) -> None:
    with pytest.raises((UnavailableError, TaskError), match="cannot import the verifier misdeeds:nobody"):
        async with judge(module, "nobody"):
            pass


async def test_a_judgement_that_is_cancelled_leaves_no_process(module: Path) -> None:
    before = below()
    async with judge(module) as opened:
        judging = asyncio.create_task(outcomes(opened, "hang"))
        await asyncio.sleep(0.1)
        judging.cancel()
        await asyncio.gather(judging, return_exceptions=True)
        assert await outcomes(opened, "right") == ["1.0"]
    assert below() <= before


def _is_a_misdeed(process: psutil.Process) -> bool:
    try:
        return "judging.keeper" in " ".join(process.cmdline()) or "time.sleep(1000)" in " ".join(process.cmdline())
    except psutil.Error:
        return False
