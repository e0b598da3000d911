"""Every alert fires on a real fault: a real Prometheus, the rules in hurried time, real services that go wrong.

Trainers that are fed made-up groups show what comes from samples, weights and learning; a whole `ais run` shows what
comes from processes. Before anything goes wrong all of them are in order, and no alert fires.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import httpx
import pytest
import pytest_asyncio

from ais.contracts.sampling import FinishReason, Precision
from ais.contracts.weights.refusal import PROBE, WeightsRefusedError
from ais.issuing.authority import LIFE, Use
from ais.launcher.processes.commands import LOOPBACK, free_port
from ais.rollout.engine import WeightSwap
from ais.runtime.network.redis import connect
from ais.runtime.security.certificates import Certificates
from ais.runtime.settings import RedisSettings
from ais.runtime.tracing.batches import Batches
from ais.runtime.tracing.spans import trace_with
from tests.support.access.deployment import authority, written
from tests.support.alarms import redis_faults
from tests.support.alarms.hurried import Hurry
from tests.support.alarms.stage import Stage, staged
from tests.support.alarms.trainers import CERTAIN, NAN
from tests.support.monitoring.prometheus import rules

pytestmark = [pytest.mark.prometheus, pytest.mark.slow, pytest.mark.timeout(1500)]
in_one_loop = pytest.mark.asyncio(loop_scope="module")


QUIET_MINUTES = 40
"""In hurried time. So long an alert has not fired before its fault: that is as far back as rules look."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and whose alert tells it."""

    inject: Callable[[Stage], Awaitable[object]]
    trainer: str = ""
    """Name of the one it goes wrong with; empty: it is none of those that are fed."""
    where: str = ""
    """Labels, as PromQL matches them."""

    def matchers(self, alert: str, stage: Stage) -> str:
        """What the alert's series must match."""
        instance = f'instance="{stage.addresses[self.trainer]}"' if self.trainer else ""
        return ",".join(filter(None, (f'alertname="{alert}"', instance, self.where)))


# What goes wrong with a trainer's samples, weights, and what it needs.


async def samples_drift(stage: Stage) -> None:
    """As from a replica of a coarser format."""
    stage.trainers["drifting"].sampler.noise = 1.0


async def policy_collapses(stage: Stage) -> None:
    """Wrong, certain, endless answers, in samples of a policy that is far away."""
    sampler = stage.trainers["collapsing"].sampler
    sampler.noise, sampler.rewards, sampler.finish = 1.1, (0.0,) * 4, FinishReason.LENGTH
    sampler.task = CERTAIN


async def other_policy_samples(stage: Stage) -> None:
    stage.trainers["strange"].sampler.shift = -3.0


async def other_policy_samples_for_good(stage: Stage) -> None:
    stage.trainers["failing"].sampler.shift = -20.0


async def numbers_overflow(stage: Stage) -> None:
    stage.trainers["overflowing"].sampler.task = NAN


async def entry_is_malformed(stage: Stage) -> None:
    await stage.trainers["overflowing"].queue.publish(10**6, b"not a group")


async def batch_stays_incomplete(stage: Stage) -> None:
    stage.trainers["halted"].sampler.halted = True


async def replica_refuses(stage: Stage) -> None:
    async def refuse(*_offer: object) -> WeightSwap:
        raise WeightsRefusedError(PROBE, "expected log-probs near the trainer's, got others", probe_gap=2.0)

    stage.replicas["refusing"].engine.swap_weights = refuse  # type: ignore[method-assign]


async def replica_computes_nearly_too_differently(stage: Stage) -> None:
    engine = stage.replicas["steady"].engine
    swap_weights = engine.swap_weights

    async def swap(*offer: object) -> WeightSwap:
        await swap_weights(*offer)  # type: ignore[arg-type]
        return WeightSwap(staging_seconds=0.0, paused_seconds=0.0, probe_gap=0.45, probe_allowed=0.5)

    engine.swap_weights = swap  # type: ignore[method-assign]


async def grid_is_too_coarse_for_the_updates(stage: Stage) -> None:
    replica = stage.replicas["refusing"]
    await stage.fleet.register(replica.name, replica.url, precision=Precision(weights="e4m3", granularity="channel"))


async def disk_shrinks(stage: Stage) -> None:
    if not stage.disk.trouble:
        stage.disk.shrink()


async def certificate_runs_out(stage: Stage) -> None:
    ten_days_left = datetime.now(UTC) - LIFE + timedelta(days=10)
    issued = authority().issue("trainer", *Use, now=ten_days_left)
    stage.held.append(Certificates(written(stage.directory / "certificates", issued)))


async def spans_are_not_taken(stage: Stage) -> None:
    """Traces are on, and nobody listens where they go."""
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{LOOPBACK}:{free_port()}", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with patch.dict(os.environ, nowhere):
        batches = Batches("trainer")
    stage.stack.push_async_callback(asyncio.to_thread, batches.close)
    stage.stack.callback(trace_with, None)
    trace_with(batches.tracer)


# What goes wrong with a run.


async def verifier_breaks(stage: Stage) -> None:
    (stage.directory / "broken").touch()


async def stranger_calls(stage: Stage) -> None:
    (url,) = {one["metric"]["instance"] for one in stage.prometheus.query("ais_collector_ready_replicas")}
    async with httpx.AsyncClient() as client:
        for _call in range(20):
            assert (await client.get(f"http://{url}/metrics")).status_code == 401


AT_ONCE: Mapping[str, Fault] = {
    "AisEffectiveSampleLow": Fault(policy_collapses, "collapsing"),
    "AisEffectiveSampleFalling": Fault(samples_drift, "drifting"),
    "AisMismatchAtLagZero": Fault(samples_drift, "drifting"),
    "AisAlphaPinned": Fault(other_policy_samples, "strange"),
    "AisUncorrected": Fault(other_policy_samples, "strange"),
    "AisQuantisedPolicyStandsStill": Fault(grid_is_too_coarse_for_the_updates, "drifting"),
    "AisNotFinite": Fault(numbers_overflow, "overflowing"),
    "AisBatchesUntrusted": Fault(other_policy_samples, "strange"),
    "AisRewardCollapsed": Fault(policy_collapses, "collapsing"),
    "AisEntropyCollapsed": Fault(policy_collapses, "collapsing"),
    "AisTruncationRising": Fault(policy_collapses, "collapsing"),
    "AisGroupsDegenerate": Fault(policy_collapses, "collapsing"),
    "AisWeightsRefused": Fault(replica_refuses, "drifting"),
    "AisProbeGapNearLimit": Fault(replica_computes_nearly_too_differently, where='job="rollout"'),
    "AisReplicaBehind": Fault(replica_refuses, "drifting", 'replica="refusing"'),
    "AisTrainerStarved": Fault(batch_stays_incomplete, "halted"),
    "AisQueueStalled": Fault(batch_stays_incomplete, "halted"),
    "AisDeadLetters": Fault(entry_is_malformed, "overflowing"),
    "AisJudgementsFail": Fault(verifier_breaks),
    "AisSpansLost": Fault(spans_are_not_taken, where='job="trainer"'),
    "AisCallersRefused": Fault(stranger_calls, where='job="collector"'),
    "AisRunFailed": Fault(other_policy_samples_for_good, "failing"),
    "AisCertificateExpiring": Fault(certificate_runs_out, where='subject="trainer"'),
    "AisDiskFilling": Fault(disk_shrinks, "drifting"),
}
"""Faults that have nothing to do with one another."""


# What goes wrong with a run's processes.


async def replica_hangs(stage: Stage) -> None:
    stage.suspend("ais.rollout")


async def collector_dies_again_and_again(stage: Stage) -> None:
    for _death in range(2):
        process = stage.process("ais.collector")
        later = f'process_start_time_seconds{{job="collector"}} > {process.create_time() + 1}'
        process.kill()
        await stage.until(lambda later=later: stage.prometheus.query(later), "it is started again, and scraped")


async def redis_hangs(stage: Stage) -> None:
    stage.suspend("valkey-server")


ONE_AFTER_ANOTHER: Mapping[str, Fault] = {
    "AisReplicaLost": Fault(replica_hangs),
    "AisServiceSilent": Fault(replica_hangs, where='job="rollout"'),
    "AisNoReplica": Fault(replica_hangs),
    "AisRestarts": Fault(collector_dies_again_and_again, where='job="collector"'),
    "AisRedisAway": Fault(redis_hangs, where='job="collector"'),
}
"""Faults of one run, in this order: each leaves what the next one needs."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    redis = await connect(RedisSettings(url=redis_url))
    async with staged(redis, redis_url, tmp_path_factory.mktemp("alarms")) as stage:
        yield stage
    await redis.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broken(stage: Stage) -> tuple[Stage, float]:
    """All of `AT_ONCE` goes wrong, and since when (seconds of a monotonic clock)."""
    begun, names, quiet = time.monotonic(), "|".join(AT_ONCE), stage.hurry.seconds(QUIET_MINUTES)
    # The whole run is slow and clumsy: of its trainer nothing is asked.
    matchers = f'alertname=~"{names}",instance!="{stage.trainer_of_the_run}"'
    await stage.until(
        lambda: time.monotonic() - begun > quiet and not stage.firing(quiet, matchers),
        "no alert fires while trainers are in order",
    )
    since = time.monotonic()
    for inject in dict.fromkeys(fault.inject for fault in AT_ONCE.values()):
        await inject(stage)
    return stage, since


@in_one_loop
@pytest.mark.parametrize("alert", AT_ONCE)
async def test_an_alert_fires_when_something_goes_wrong(alert: str, broken: tuple[Stage, float]) -> None:
    stage, since = broken
    if alert == "AisDiskFilling" and stage.disk.trouble:
        pytest.skip(f"no file system can be mounted here: {stage.disk.trouble}")
    await told(stage, alert, AT_ONCE[alert], since)


@in_one_loop
@pytest.mark.parametrize("alert", ONE_AFTER_ANOTHER)
async def test_an_alert_fires_when_a_process_hangs_or_dies(alert: str, stage: Stage) -> None:
    fault = ONE_AFTER_ANOTHER[alert]
    if fault.inject not in stage.done:
        matchers, quiet = fault.matchers(alert, stage), stage.hurry.seconds(QUIET_MINUTES)
        await stage.until(lambda: not stage.firing(quiet, matchers), f"{alert} does not fire before its fault")
        stage.done[fault.inject] = time.monotonic()
        await fault.inject(stage)
    await told(stage, alert, fault, stage.done[fault.inject])


async def told(stage: Stage, alert: str, fault: Fault, since: float) -> None:
    """Waits until the alert has fired, in the right place, since something went wrong."""
    matchers = fault.matchers(alert, stage)
    await stage.until(lambda: stage.firing(time.monotonic() - since, matchers), f"{alert} fires")


def test_hurried_rules_are_the_rules_in_shorter_time() -> None:
    hurried = Hurry(120.0).expression
    assert hurried("avg_over_time(a[10m]) < 0.7 * avg_over_time(a[10m] offset 30m)") == (
        "avg_over_time(a[5000ms]) < 0.7 * avg_over_time(a[5000ms] offset 15000ms)"
    )
    assert hurried("ais_trainer_waiting_seconds > 600") == "ais_trainer_waiting_seconds > 5"
    assert hurried("predict_linear(a[6h], 4 * 3600) < 0") == "predict_linear(a[180000ms], 120) < 0"
    unchanged = "increase(a[2m]) > 2 or last_over_time(b[30d]) == 1 or c - time() < 14 * 86400 or changes(d[1h]) >= 2"
    assert hurried(unchanged) == unchanged


def test_each_alert_has_a_fault() -> None:
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert alerts == AT_ONCE.keys() | ONE_AFTER_ANOTHER.keys() | redis_faults.FAULTS.keys()
