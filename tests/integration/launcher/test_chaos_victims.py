"""What `ais chaos` finds to kill below a collector."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from ais.launcher.chaos import Chaos
from ais.launcher.directory.steps import StepLog
from ais.launcher.processes.kept import KEEPER, PROGRAM, WORKER, kept_below
from tests.support.waiting import eventually


def test_programs_and_workers_are_found_below_their_keepers_while_they_run() -> None:
    keepers = [
        subprocess.Popen([sys.executable, "-P", "-m", KEEPER, *arguments], stdin=subprocess.PIPE)
        for arguments in ((), ("0", "sleep", "600"))
    ]
    try:
        eventually(lambda: kept_below(os.getpid()).keys() == {PROGRAM, WORKER})
        ((program,), (_worker,)) = (kept_below(os.getpid())[kind] for kind in (PROGRAM, WORKER))
        os.kill(program, signal.SIGKILL)
        assert keepers[1].wait(20) == 128 + signal.SIGKILL
        assert kept_below(os.getpid()).keys() == {WORKER}
    finally:
        for keeper in keepers:
            keeper.terminate()
            keeper.wait(20)
            assert keeper.stdin is not None
            keeper.stdin.close()
    assert kept_below(os.getpid()) == {}
    assert kept_below(keepers[0].pid) == {}, "a process that has gone has nothing below it"


@pytest.mark.parametrize("keeps", ["collector", "agent-0"])
def test_a_program_that_plays_is_killed_in_its_turn(keeps: str, tmp_path: Path) -> None:
    keeper = subprocess.Popen([sys.executable, "-P", "-m", KEEPER, "0", "sleep", "600"], stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: kept_below(os.getpid()).keys() == {PROGRAM})
        chaos = Chaos(2, 10, 0, Mock(), StepLog(tmp_path / "steps.jsonl"))
        processes, bag = Mock(running=[keeps, "trainer"], pid=lambda _name: os.getpid()), list[str]()
        assert [chaos._kill(processes, bag, random.Random(0), 0.0) for _ in range(3)] == [True] * 3
        assert {kill.name for kill in chaos.done} == {keeps, "trainer", PROGRAM}
        assert {call.args for call in processes.kill.call_args_list} == {(keeps,), ("trainer",)}
        assert keeper.wait(20) == 128 + signal.SIGKILL
    finally:
        keeper.terminate()
        keeper.wait(20)
