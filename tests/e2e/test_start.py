"""What a service says when it cannot start."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVICES = ["rollout", "collector", "trainer"]


def start(service: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    arguments = [argument for override in overrides for argument in ("--set", override)]
    return subprocess.run(
        [sys.executable, "-m", f"ais.{service}", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("service", SERVICES)
def test_an_unreachable_redis_at_start_is_a_clear_error(service: str) -> None:
    ended = start(service, "redis.url=redis://:secret@127.0.0.1:1/0", "redis.connect_timeout_seconds=0.5")
    assert ended.returncode == 3
    assert "no Redis answers at redis://:***@127.0.0.1:1/0 after 0.5 s" in ended.stderr
    assert "secret" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_misspelt_setting_is_a_clear_error(service: str) -> None:
    ended = start(service, "run.setps=3")
    assert ended.returncode == 2
    assert "did you mean run.steps?" in ended.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_model_directory_that_is_not_there_is_a_clear_error(service: str, redis_url: str, run_name: str) -> None:
    ended = start(service, f"redis.url={redis_url}", f"run.name={run_name}", "run.model=/nonexistent/model")
    assert ended.returncode == 3
    assert "/nonexistent/model" in ended.stderr
    assert "Traceback" not in ended.stderr
