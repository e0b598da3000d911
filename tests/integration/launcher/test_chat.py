"""`ais chat`: a conversation with a saved model through a real replica."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
CHAT = [sys.executable, "-m", "ais.cli", "chat", "examples/sort16/model", "-c", "examples/sort16/config.toml"]


@pytest.mark.slow
def test_each_line_is_answered_and_the_end_of_the_input_ends_everything() -> None:
    options = ["--precision", "e4m3", "--temperature", "0.1", "--max-new-tokens", "12"]
    said = "3914201657389215=\n/new\n\n0000000000000001=\n"
    done = subprocess.run([*CHAT, *options], cwd=ROOT, input=said, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert [len(answer) for answer in answers] == [12, 12]
    assert all(answer.isdigit() for answer in answers)


@pytest.mark.slow
def test_ctrl_c_ends_the_conversation_and_every_process() -> None:
    with subprocess.Popen(
        CHAT, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stderr is not None
        told: list[bytes] = []
        while b"Ctrl-D" not in b"".join(told):
            told.append(process.stderr.readline())
            assert told[-1], b"".join(told).decode()
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3  # Valkey, the replica, the conversation
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all in the foreground
        assert process.wait(60) == 128 + signal.SIGINT
    eventually(lambda: not any(member.is_running() for member in family))
