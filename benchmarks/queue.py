"""The queue under load: groups of 8 trajectories of 4,096 tokens from one process to another, as a run moves them.

    ais bench queue                     # three contenders, several rounds; writes benchmarks/results/queue.json
    ais bench queue --groups 64 --rounds 1
    ais bench queue --profile           # where the time of each of our two processes goes, instead

A producer and a consumer are processes of their own, as collector and trainer are; between them is a Valkey server as
`ais run` starts it, with its append-only file. Every contender gets a fresh server each round, and they take turns.

- ours: encode a scored group, `TrajectoryQueue.publish` (one script: once an ordinal), read many at a time, decode and
  validate every field, tensors, acknowledge.
- raw: the same bytes as opaque payloads through redis-py's synchronous client: XADD in a pipeline, XREADGROUP, XACK and
  XDEL in a pipeline. Nothing is encoded, looked at or published once.
- pickle: what PipelineRL does: one XADD of a pickle a trajectory, XREAD of one entry at a time, `pickle.loads`. It
  carries Python lists of token ids and log-probs, becomes tensors, and neither acknowledges nor deletes.

The clock runs from the moment both processes are connected to the last acknowledgement (of `pickle`: to the last
tensor). MB/s are of the trajectories' own bytes, 8 a token, whatever a contender makes of them.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import os
import pickle
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import redis
import torch
from rich.console import Console
from rich.table import Table

from ais.contracts.keys import Keys
from ais.contracts.queue import CONSUMER_GROUP, TrajectoryQueue
from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import (
    PolicySpan,
    ScoredGroup,
    Trajectory,
    TrajectoryBounds,
    decode_group,
    encode_group,
)
from ais.issuing import PASSWORD
from ais.launcher.processes.commands import LOOPBACK, free_port, valkey
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings
from benchmarks.support.report import publish, spread

SAMPLES = 8
TOKENS = 4096
PROMPT = 512
VOCABULARY = 150_000
GROUP_BYTES = 4 * PROMPT + SAMPLES * TOKENS * 8
CONCURRENCY = 8
"""Publishes in flight; of `raw`, commands in a pipeline."""
READ = 32
"""Groups a read asks for, and acknowledged at once: the demo's batch."""
BLOCK_SECONDS = 1.0
DISTINCT = 16
"""Different groups that are sent again and again, so that making them is not measured."""
KEYS = Keys("bench")
PRECISION = Precision()
PATIENCE_SECONDS = 120.0
"""No round takes longer."""
TARGET_OF_RAW = 0.5
TARGET_OF_PICKLE = 10.0


@dataclass(frozen=True)
class Job:
    """What one process of one contender is given."""

    url: str
    groups: int
    clock: Clock
    """Passed by both processes and the timekeeper: when the connections stand, and when the work is done."""
    secrets: Path | None = None
    """What `ais secrets` made, for `ours`: passwords and certificates."""

    def settings(self, service: str) -> RedisSettings:
        """How a service of ours reaches the server."""
        if self.secrets is None:
            return RedisSettings.model_validate({"url": self.url})
        own = self.secrets / service
        url = self.url.replace("redis://", f"rediss://{service}@")
        return RedisSettings.model_validate({"url": url, "password_file": own / PASSWORD, "certificates": own})


class Clock(Protocol):
    """What processes wait for each other at."""

    def wait(self) -> object: ...


def make_groups() -> list[ScoredGroup]:
    return [make_group(ordinal) for ordinal in range(DISTINCT)]


def make_group(ordinal: int) -> ScoredGroup:
    random = np.random.default_rng(ordinal)
    group_id = f"bench-{ordinal}-1"
    sampling = SamplingParameters(max_new_tokens=TOKENS, stop_token_ids=(2,), seed=ordinal)
    return ScoredGroup(
        group_id=group_id,
        ordinal=ordinal,
        prompt_id=f"prompt-{ordinal}",
        prompt_token_ids=random.integers(0, VOCABULARY, PROMPT, dtype=np.int32),
        trajectories=tuple(make_trajectory(random, group_id, index, sampling) for index in range(SAMPLES)),
        rewards=tuple(random.random(SAMPLES).tolist()),
        task="bench",
        attempt=1,
    )


def make_trajectory(random: np.random.Generator, group_id: str, index: int, sampling: SamplingParameters) -> Trajectory:
    return Trajectory(
        trajectory_id=f"{group_id}/{index}",
        group_id=group_id,
        sample_index=index,
        token_ids=random.integers(0, VOCABULARY, TOKENS, dtype=np.int32),
        behaviour_logprobs=-random.random(TOKENS, dtype=np.float32),
        spans=(PolicySpan(3, 0, 1000), PolicySpan(4, 1000, TOKENS)),
        finish_reason=FinishReason.LENGTH,
        sampling=sampling,
        precision=PRECISION,
        engine="vllm",
        engine_version="0.32.0",
        replica_id="replica-0",
        first_token_seconds=0.1,
        total_seconds=9.0,
    )


def produce_ours(job: Job) -> None:
    async def main() -> None:
        groups = make_groups()
        client = await connect(job.settings("collector"))
        queue = TrajectoryQueue(client, KEYS)
        ordinals = iter(range(job.groups))

        async def keep_publishing() -> None:
            for ordinal in ordinals:
                group = replace(groups[ordinal % DISTINCT], ordinal=ordinal)
                assert await queue.publish(ordinal, encode_group(group))

        job.clock.wait()
        await asyncio.gather(*(keep_publishing() for _ in range(CONCURRENCY)))
        job.clock.wait()
        await client.aclose()

    asyncio.run(main())


def consume_ours(job: Job) -> None:
    async def main() -> None:
        client = await connect(job.settings("trainer"))
        queue = TrajectoryQueue(client, KEYS)
        await queue.prepare()
        bounds = TrajectoryBounds(VOCABULARY, newest_version=4)
        done = 0
        job.clock.wait()
        while done < job.groups:
            entries = await queue.read(READ, BLOCK_SECONDS)
            for entry in entries:
                group = decode_group(entry.payload, bounds)
                for trajectory in group.trajectories:
                    tensors(trajectory.token_ids, trajectory.behaviour_logprobs)
            await queue.acknowledge({entry.entry_id: entry.ordinal for entry in entries})
            done += len(entries)
        job.clock.wait()
        await client.aclose()

    asyncio.run(main())


def tensors(token_ids: np.ndarray, logprobs: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [T], as an embedding wants it, and float32 [T], both of their own memory."""
    return torch.from_numpy(token_ids.astype(np.int64)), torch.from_numpy(logprobs.copy())


def produce_raw(job: Job) -> None:
    payloads = [encode_group(group) for group in make_groups()]
    client = redis.Redis.from_url(job.url)
    job.clock.wait()
    for first in range(0, job.groups, CONCURRENCY):
        pipeline = client.pipeline(transaction=False)
        for ordinal in range(first, min(first + CONCURRENCY, job.groups)):
            pipeline.xadd(KEYS.groups, {"ordinal": ordinal, "group": payloads[ordinal % DISTINCT]})
        pipeline.execute()
    job.clock.wait()


def consume_raw(job: Job) -> None:
    client: Any = redis.Redis.from_url(job.url)
    client.xgroup_create(KEYS.groups, CONSUMER_GROUP, id="0", mkstream=True)
    done = 0
    job.clock.wait()
    while done < job.groups:
        for _stream, rows in client.xreadgroup(
            CONSUMER_GROUP, "raw", {KEYS.groups: ">"}, count=READ, block=int(BLOCK_SECONDS * 1000)
        ):
            pipeline = client.pipeline(transaction=False)
            pipeline.xack(KEYS.groups, CONSUMER_GROUP, *[entry_id for entry_id, _ in rows])
            pipeline.xdel(KEYS.groups, *[entry_id for entry_id, _ in rows])
            pipeline.execute()
            done += len(rows)
    job.clock.wait()


def produce_pickle(job: Job) -> None:
    records = [
        {
            "group_id": group.group_id,
            "input_ids": group.prompt_token_ids.tolist() + trajectory.token_ids.tolist(),
            "logprobs": trajectory.behaviour_logprobs.tolist(),
            "reward": reward,
        }
        for group in make_groups()
        for trajectory, reward in zip(group.trajectories, group.rewards, strict=True)
    ]
    client = redis.Redis.from_url(job.url)
    job.clock.wait()
    for index in range(job.groups * SAMPLES):
        data = pickle.dumps(records[index % len(records)])
        client.xadd(KEYS.groups, {"index": index, "data": data}, maxlen=1_000_000, approximate=True)
    job.clock.wait()


def consume_pickle(job: Job) -> None:
    client: Any = redis.Redis.from_url(job.url)
    last: bytes | str = "0"
    done = 0
    job.clock.wait()
    while done < job.groups * SAMPLES:
        for _stream, ((entry_id, entry),) in client.xread({KEYS.groups: last}, count=1, block=100):
            last = entry_id
            record = pickle.loads(entry[b"data"])
            torch.tensor(record["input_ids"])
            torch.tensor(record["logprobs"])
            done += 1
    job.clock.wait()


CONTENDERS: dict[str, tuple[Callable[[Job], None], Callable[[Job], None]]] = {
    "ours": (produce_ours, consume_ours),
    "raw": (produce_raw, consume_raw),
    "pickle": (produce_pickle, consume_pickle),
}


@contextmanager
def server(directory: Path) -> Iterator[str]:
    """URL of a fresh Valkey server, started as `ais run` starts it."""
    port = free_port()
    process = subprocess.Popen(valkey(directory, port).arguments, stdout=subprocess.DEVNULL)
    try:
        url = f"redis://{LOOPBACK}:{port}/0"
        asyncio.run(_answers(url))
        yield url
    finally:
        process.terminate()
        process.wait()


async def _answers(url: str) -> None:
    await (await connect(RedisSettings(url=url))).aclose()


def seconds(
    contender: str,
    groups: int,
    wrap: Callable[..., None] | None = None,
    serve: Callable[[Path], AbstractContextManager[str]] = server,
) -> float:
    """One round of one contender. `wrap` runs each process's function, and is told which it is."""
    context = multiprocessing.get_context("spawn")
    clock = context.Barrier(3, timeout=PATIENCE_SECONDS)
    with tempfile.TemporaryDirectory() as directory, serve(Path(directory)) as url:
        job = Job(url, groups, clock)
        works = [partial(wrap, work) if wrap else work for work in CONTENDERS[contender]]
        processes = [context.Process(target=work, args=(job,)) for work in works]
        for process in processes:
            process.start()
        clock.wait()
        begun = time.perf_counter()
        clock.wait()
        taken = time.perf_counter() - begun
        for process in processes:
            process.join()
    if failed := [process.exitcode for process in processes if process.exitcode]:
        raise RuntimeError(f"a process of {contender} ended with {failed}")
    return taken


def profiled(work: Callable[[Job], None], job: Job) -> None:
    profile = cProfile.Profile()
    profile.runcall(work, job)
    print(f"\n{work.__name__}")
    pstats.Stats(profile).sort_stats("tottime").print_stats(18)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=512, help="groups of 8 trajectories in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    if arguments.profile:
        seconds("ours", arguments.groups, profiled)
        return
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(arguments.rounds):
        for name in CONTENDERS:
            rates[name].append(arguments.groups * SAMPLES / seconds(name, arguments.groups))
            print(f"round {number}: {name} {rates[name][-1]:.0f} trajectories/s", file=sys.stderr)
    report(rates)


def report(rates: dict[str, list[float]]) -> None:
    """Prints the table and publishes. Ratios are taken within a round: what disturbs one disturbs the other."""
    megabytes = GROUP_BYTES / SAMPLES / 1e6
    table = Table("", "trajectories/s", "lowest to highest", "MB/s")
    for name, values in rates.items():
        table.add_row(
            name,
            f"{median(values):,.0f}",
            f"{min(values):,.0f} to {max(values):,.0f}",
            f"{median(values) * megabytes:.0f}",
        )
    of_raw = [ours / other for ours, other in zip(rates["ours"], rates["raw"], strict=True)]
    of_pickle = [ours / other for ours, other in zip(rates["ours"], rates["pickle"], strict=True)]
    console = Console()
    console.print(table)
    console.print(
        f"ours is {median(of_raw):.2f} of raw (target {TARGET_OF_RAW}) and {median(of_pickle):.1f} times pickle "
        f"(target {TARGET_OF_PICKLE:.0f})"
    )
    figures = {f"{name}_trajectories": spread(values, "trajectories/s") for name, values in rates.items()}
    figures |= {f"{name}_bytes": spread([v * megabytes for v in values], "MB/s") for name, values in rates.items()}
    figures["ours_of_raw"] = spread(of_raw, "raw rates", TARGET_OF_RAW)
    figures["ours_of_pickle"] = spread(of_pickle, "pickle rates", TARGET_OF_PICKLE)
    publish("queue", figures, f"redis-py {redis.__version__}")


if __name__ == "__main__":
    main()
