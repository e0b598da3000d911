"""Programs that do not do as they should, and the policy that they ask is a scripted one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ais.collector.episodes import harnessed
from ais.collector.episodes.answering import answers
from ais.collector.episodes.call import Answers
from ais.collector.judging.harness.programs import Limits, run_program
from ais.collector.judging.judge import Judged, UnjudgedError
from ais.collector.judging.judgement import Outcome
from ais.collector.judging.process import END_SECONDS
from ais.collector.replicas.generation import GenerationError
from ais.runtime.process import UnavailableError
from tests.support.turns.stage import Scripted, call, exercise, program

GUESS = (4, 5, 2)
"""12 and the end of a turn."""
END = "\ncall('/end', {'reward': 1.0})\n"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harnessed, "PAUSES", (0.01, 0.01))


async def played(does: str, samples: int = 1, deadline_seconds: float = 600.0, **environment: Any) -> Answers:
    async with exercise({"command": program(does)} | environment) as made:
        return await answers(made, made.prompt(0), Scripted(GUESS), call(samples, deadline_seconds))


async def test_a_start_that_fails_is_made_again_and_costs_no_other_episode(tmp_path: Path) -> None:
    been = str(tmp_path / "been")
    does = f"""
if os.path.exists({been!r}):
    ask()
    call('/end', {{'reward': 1.0}})
else:
    os.mkdir({been!r})
"""
    assert (await played(does, 2, programs=1)).judged.rewards == (1.0, 1.0)


@pytest.mark.parametrize(("branches", "read"), [("longest", 1), ("all", 2)])
async def test_of_an_episodes_branches_the_longest_is_trained_or_all_of_them(branches: str, read: int) -> None:
    does = """
ask()
call('/chat/completions', {'messages': [{'role': 'user', 'content': '07;'}]})
call('/end', {'reward': 1.0})
"""
    found = await played(does, branches=branches)
    (trajectory,) = found.trajectories
    passages = trajectory.passages(np.array(found.prompt_token_ids))
    assert [one.text_token_ids.tolist() for one in passages] == [list(GUESS)] * read
    assert trajectory.token_ids.tolist() == list(GUESS) * read
    assert found.judged.rewards == (1.0,)


@pytest.mark.parametrize(
    ("does", "limit", "why"),
    [
        ("sys.exit(3)", {}, "started 3 times.*exit code 3"),
        ("time.sleep(600)", {"seconds": 0.2}, "longer than environment.seconds = 0.2 s"),
        (
            "call('/chat/completions', {'messages': [], 'n': 2})",
            {},
            r"exit code 1: .*HTTP Error 400.*last call was refused: messages",
        ),
    ],
)
async def test_a_program_that_asks_nothing_again_and_again_ends_the_run(
    does: str, limit: dict[str, float], why: str
) -> None:
    with pytest.raises(UnavailableError, match=f"the program of environment.command does not work.*{why}"):
        await played(does, **limit)


async def test_where_other_programs_work_a_silent_one_has_its_group_again() -> None:
    async with exercise({"command": program("sys.exit(3)")}) as made:
        harness = made.harness(made.prompt(0))
        assert harness is not None
        asked = asyncio.create_task(answers(made, made.prompt(0), Scripted(GUESS), call(1)))
        while not asked.done():
            harness.record.worked += 1
            await asyncio.sleep(0.01)
        with pytest.raises(UnjudgedError, match="started 3 times"):
            await asked


async def test_a_program_that_lingers_after_the_end_is_ended_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ais.collector.judging.harness.host.LINGER_SECONDS", 0.1)
    assert (await played(f"ask(){END}time.sleep(600)")).judged.rewards == (1.0,)


async def test_a_noisy_program_that_overran_its_time_is_ended_at_once() -> None:
    began = time.monotonic()
    failure = await run_program(("yes",), None, {}, b"", Limits(2.0))  # enough for it to have begun
    assert failure is not None
    assert failure.outcome is Outcome.OVERTIME
    assert time.monotonic() - began < 2.0 + END_SECONDS


async def test_waiting_for_another_program_to_end_costs_no_time_of_the_groups_deadline() -> None:
    async with exercise({"command": program(f"ask(){END}"), "programs": 1}) as made:
        harness = made.harness(made.prompt(0))
        assert harness is not None
        async with harness.free:
            asked = asyncio.create_task(answers(made, made.prompt(0), Scripted(GUESS), call(1, 30.0)))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asked), 0.2)
        assert (await asked).judged.rewards == (1.0,)
        with pytest.raises(GenerationError, match="not over by the deadline"):
            await answers(made, made.prompt(0), Scripted(GUESS), call(1, 0.0))


async def test_a_program_whose_directory_has_gone_is_a_failure_and_ends_no_collector(tmp_path: Path) -> None:
    failure = await run_program(("true",), tmp_path / "gone", {}, b"", Limits())
    assert failure is not None
    assert "cannot be started" in failure.reason


async def test_a_program_or_its_child_that_takes_too_much_memory_is_told_so() -> None:
    greedy = "bytearray(300_000_000)"
    child = f"import subprocess, sys\nsys.exit(subprocess.call([sys.executable, '-c', {greedy!r}]))"
    for does in (greedy, child):
        failure = await run_program(program(does), None, {}, b"{}\n", Limits(megabytes=200))
        assert failure is not None
        assert failure.outcome is Outcome.MEMORY
        assert "environment.program_megabytes = 200" in failure.reason
    assert await run_program(program(greedy), None, {}, b"{}\n", Limits()) is None


async def test_a_proxy_is_not_asked_for_the_endpoint_nor_for_what_the_user_excepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "inner.example")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    does = "assert os.environ['NO_PROXY'] == os.environ['no_proxy'] == 'inner.example,127.0.0.1'\nask()"
    assert (await played(does + END)).judged.rewards == (1.0,)


async def test_the_verifiers_judge_the_episodes_of_a_group_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = asyncio.Barrier(2)
    async with exercise({"command": program("ask()"), "judged_by": "verifiers"}) as made:

        async def judge(*_: Any) -> Judged:
            async with asyncio.timeout(20):
                await at_once.wait()
            return Judged((1.0,), ())

        monkeypatch.setattr(type(made.judge), "judge", judge)
        found = await answers(made, made.prompt(0), Scripted(GUESS), call(2))
    assert len(found.trajectories) == 2
