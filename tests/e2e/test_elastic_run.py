"""Replicas that join a run of `ais run` and leave it again: real engines, a real trainer, weights pushed to all."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_faults import ROOT, ais_run, assert_ledger, services_of, steps, wait_for

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.runtime.network.redis import connect
from ais.runtime.security.keyring import TOKENS
from ais.runtime.security.roles import Role
from ais.runtime.settings import RedisSettings
from tests.support.access import bearer


def redis_url_of(run: subprocess.Popen[str]) -> str:
    """The address of the server that a run has started."""
    return str(services_of(run, "rollout")[0].environ()["AIS_REDIS__URL"])


@contextmanager
def replica(directory: Path, redis_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One more replica of a run, as a user would start it."""
    arguments = ("rollout", "-c", str(directory / "config.toml"), "--set", f"redis.url={redis_url}")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ais.cli", *arguments], cwd=ROOT, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def registered(redis_url: str) -> list[ReplicaRecord]:
    async def read() -> list[ReplicaRecord]:
        redis = await connect(RedisSettings(url=redis_url))
        try:
            return await ReplicaRegistry(redis, Keys("demo")).replicas()
        finally:
            await redis.aclose()

    return asyncio.run(read())


def sampled(record: ReplicaRecord, run: Path) -> float:
    """Responses that a replica has finished."""
    text = httpx.get(f"{record.http_url}/metrics", headers=bearer(Role.METRICS, run / TOKENS)).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "ais_rollout_finished_sequences_total")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_run_grows_from_one_replica_to_four_and_shrinks_to_two_and_its_ledger_is_whole(tmp_path: Path) -> None:
    overrides = (
        "run.steps=5000",
        "rollout.replicas=1",
        "launcher.evaluation_prompts=0",
        "trainer.checkpoints.keep=1000",
    )
    with ais_run(tmp_path, *overrides) as run, ExitStack() as stack:
        wait_for(lambda: len(steps(tmp_path)) >= 2, run)
        url = redis_url_of(run)
        (first,) = registered(url)
        more = [stack.enter_context(replica(tmp_path / "demo", url, tmp_path / f"extra-{n}.log")) for n in range(3)]

        def newcomers_serve_and_sample() -> bool:
            newcomers = [record for record in registered(url) if record.replica_id != first.replica_id]
            return len(newcomers) == 3 and all(
                one.policy_version > 0 and sampled(one, tmp_path / "demo") > 0 for one in newcomers
            )

        wait_for(newcomers_serve_and_sample, run)
        for leaver in more[:2]:
            leaver.send_signal(signal.SIGTERM)
        assert [leaver.wait(30) for leaver in more[:2]] == [0, 0]
        assert len(registered(url)) == 2
        before = len(steps(tmp_path))
        wait_for(lambda: len(steps(tmp_path)) >= before + 3, run)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGINT
    assert_ledger(tmp_path, batches=len(steps(tmp_path)))
