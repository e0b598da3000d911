"""A service's process ends in time after a signal, whatever its event loop does. Real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, re, sys, time
from ais.runtime.process import run_service
from ais.runtime.settings import Section

class Settings(Section):
    pass

async def serve(settings, stop):
    print("ready", flush=True)
    {behaviour}

run_service("test", Settings, serve, "", stop_seconds=lambda settings: {seconds})
"""
BEHAVIOURS = {
    "a loop that computes": "while True: pass",
    "a loop that blocks": "time.sleep(600)",
    "a service that does not listen": "await asyncio.Event().wait()",
    "a service that waits for ever after the signal": "await stop.wait(); await asyncio.Event().wait()",
    "a service that swallows its cancellation": """
    while True:
        try: await asyncio.Event().wait()
        except BaseException: pass""",
    "a thread that does not end": "asyncio.create_task(asyncio.to_thread(time.sleep, 600)); await stop.wait()",
    "an expression that holds the interpreter": "await stop.wait(); re.match('(a+)+$', 'a' * 64 + 'b')",
}


def started(directory: Path, behaviour: str, seconds: float) -> subprocess.Popen[str]:
    """A process that runs the service and has said that it is ready."""
    program = directory / "service.py"
    program.write_text(PROGRAM.format(behaviour=behaviour, seconds=seconds))
    process = subprocess.Popen(
        (sys.executable, str(program)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_a_process_that_does_not_stop_by_itself_ends_at_the_deadline_and_says_where_it_was(
    behaviour: str, tmp_path: Path
) -> None:
    with started(tmp_path, behaviour, seconds=0.3) as process:
        process.send_signal(signal.SIGTERM)
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "service.py" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_stops_in_time_ends_well_and_says_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path, "await stop.wait()", seconds=30) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def test_children_of_a_service_still_obey_the_signal(tmp_path: Path) -> None:
    child = "import subprocess; child = subprocess.Popen(('sleep', '600')); await stop.wait(); child.terminate()"
    with started(tmp_path, f"{child}; print(child.wait())", seconds=30) as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "-15\n")
