"""A replica's vLLM processes end with it, whatever they have written over their environment."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from ais.rollout.engines.vllm_engine.watchdog import watchdog

pytestmark = pytest.mark.vllm  # setproctitle is vLLM's requirement

CHILD = """
import sys, time, setproctitle
setproctitle.setproctitle("VLLM::EngineCore" + 400 * " ")
print("titled", flush=True)
time.sleep(600)
"""
REPLICA = f"""
import subprocess, sys, time
from ais.rollout.engines.vllm_engine.watchdog import watchdog
with watchdog():
    child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    print(child.pid, flush=True)
    time.sleep(600)
"""


def test_a_process_with_a_title_ends_with_a_replica_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", REPLICA], stdout=subprocess.PIPE, text=True) as replica:
        assert replica.stdout is not None
        child = psutil.Process(int(replica.stdout.readline()))
        replica.kill()
    try:
        child.wait(30)
    finally:
        if child.is_running():
            child.kill()


def test_of_two_replicas_in_one_process_each_ends_what_it_has_started() -> None:
    sleep = (sys.executable, "-c", "import time; time.sleep(600)")
    with watchdog():
        first = subprocess.Popen(sleep)
        with watchdog():
            second = subprocess.Popen(sleep)
        second.wait(30)
        third = subprocess.Popen(sleep)
        assert first.poll() is third.poll() is None
    first.wait(30)
    third.wait(30)
