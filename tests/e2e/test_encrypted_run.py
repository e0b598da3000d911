"""A whole run whose every hop is mutual TLS: generation, weights, relays, metrics, Redis, and its evaluation."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from benchmarks.support.forwarder import behind_tls
from tests.support.access.deployment import certificates, secrets
from tests.support.valkey_process import ValkeyProcess

ROOT = Path(__file__).parents[2]
SMALL = (
    "run.steps=2",
    "run.groups_per_batch=4",
    "rollout.replicas=2",
    "trainer.push.fanout=1",
    "launcher.evaluation_prompts=8",
    "launcher.evaluation_checkpoints=2",
)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_run_trains_and_is_evaluated_with_nothing_in_the_clear(tmp_path: Path) -> None:
    own, output = secrets() / "rollout", tmp_path / "output"
    with ValkeyProcess(tmp_path) as server:
        async with behind_tls(certificates("redis").server(), server.port) as port:
            overrides = (
                *SMALL,
                f"run.directory={tmp_path / 'runs'}",
                f"redis.url=rediss://127.0.0.1:{port}/0",
                f"redis.certificates={own}",
                f"security.certificates={own}",
            )
            settings = [part for one in overrides for part in ("--set", one)]
            with output.open("wb") as printed:
                run = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "ais.cli", "run", "-c", "examples/sort16/config.toml", *settings),
                    cwd=ROOT, env=os.environ, stdout=printed, stderr=printed,
                )  # fmt: skip
                code = await run.wait()
    assert code == 0, output.read_text()
    logs = {path.name: path.read_text() for path in (tmp_path / "runs/demo/logs").iterdir()}
    for service in ("rollout-0", "rollout-1", "collector", "trainer"):
        assert "metrics at https://127.0.0.1:" in logs[f"{service}.log"]
    assert "http://" not in "".join(logs.values())
    assert (tmp_path / "runs/demo/evaluations.jsonl").read_text().count("\n") == 4
