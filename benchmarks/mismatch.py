"""How far the policy that samples is from the policy that trains, by number format.

For each precision a real replica, started as `ais eval` starts one, samples prompts of the task at the settings' own
temperature; the trainer's policy scores the same tokens in BF16. Weights are the same on both sides, so what differs is
arithmetic: number formats, kernels, order of additions. Standard errors are of a bootstrap over prompts. The token and
sequence ESS ratios are of raw importance ratios: 1 is no mismatch.

    ais bench mismatch                                                  # the demo's model, torch engine
    ais bench mismatch -c examples/smollm2/config.toml --engine vllm    # writes benchmarks/results/mismatch.json too
    ais bench mismatch --explain -c FILE --engine torch                 # what of it is the weights', and so on
    ais bench mismatch -c benchmarks/chats/config.toml ...              # long answers, as its first lines say

vLLM takes an FP8 cache by `one` alone. kv_calibrated takes its scales from tokens of the whole vocabulary; kv_probe's
replica gets the same weights again, as a trainer sends them, and takes them from the probe: prompts and the beginnings
of answers that the first of the precisions sampled. `--trainer-heads bf16,float32` scores the same samples with both.

`--explain` begins in BF16 and switches the parts of the settings' own precision on, one after another (vLLM on a CPU
cannot round weights alone; the torch engine can). Staleness is not among them: the
trainer measures it in every batch (`ais_lag_log_ratio_abs_mean_nats`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ais.collector.prompts.prompts import Split, TaskSource
from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer
from ais.collector.replicas.generation import GenerationClient
from ais.collector.tasks.task import open_task
from ais.comparison.machine import commit
from ais.contracts.registry import ReplicaRecord
from ais.contracts.trajectory import TrajectoryBounds
from ais.contracts.weights.offer import full_offer
from ais.contracts.weights.upload import UploadError, these, upload
from ais.launcher.evaluation import serving_replica
from ais.launcher.processes.commands import tokens_environment
from ais.launcher.processes.processes import Processes, ProcessFailedError
from ais.launcher.processes.server import provide_redis
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.process import UnavailableError
from ais.runtime.security.keyring import Credential, Keyring, tokens_of
from ais.runtime.security.roles import Role
from ais.runtime.settings import SettingsError
from ais.settings import Settings, load, to_toml
from ais.trainer.learning.probe import take_probe
from ais.trainer.policy.microbatch import Sample, cut
from ais.trainer.policy.policy import Policy
from ais.trainer.weights.snapshot import write_snapshot
from ais_core import CorrectionSettings, SequenceBatch, build, log_ratio, summarize
from benchmarks.support.mismatch_budget import NothingToExplainError, shares, stages
from benchmarks.support.report import RESULTS, figure, machine
from benchmarks.updates import http_client

EXAMPLE = Path("examples/sort16/config.toml")
W8A8 = {"granularity": "channel", "kv_cache": "bf16", "head": "false"}
PRECISIONS = {
    "bf16": {"weights": "bf16", "kv_cache": "bf16"},
    "fp8": {**W8A8, "weights": "e4m3", "activations": "e4m3"},
    "fp8_kv": {**W8A8, "weights": "e4m3", "activations": "e4m3", "kv_cache": "e4m3"},
    "fp8_kv_one": {**W8A8, "weights": "e4m3", "activations": "e4m3", "kv_cache": "e4m3", "kv_scale": "one"},
    "kv_token": {"weights": "bf16", "kv_cache": "e4m3", "kv_scale": "token"},
    "kv_calibrated": {"weights": "bf16", "kv_cache": "e4m3", "kv_scale": "calibrated"},
    "kv_one": {"weights": "bf16", "kv_cache": "e4m3", "kv_scale": "one"},
    "kv_probe": {"weights": "bf16", "kv_cache": "e4m3", "kv_scale": "calibrated"},
    "bf16_head": {"weights": "bf16", "kv_cache": "bf16", "head": "false", "float32_head": "true"},
    "fp8_head": {**W8A8, "weights": "e4m3", "activations": "e4m3", "float32_head": "true"},
    "int8": {**W8A8, "weights": "int8", "activations": "int8"},
}
PROBED = "kv_probe"
HEADS = {"bf16": False, "float32": True}
"""What the trainer's head may be, and whether its logits are then float32."""
FIGURES = {
    "mean_abs_log_ratio": "nats",
    "k3": "nats",
    "token_ess_ratio": "share",
    "sequence_ess_ratio": "share",
}
"""Diagnostics of ais_core, in the table's order, and their units."""
RESAMPLES = 200
CALL_SECONDS = 600.0


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.1g}"


@dataclass(frozen=True)
class Mismatch:
    """One precision against the trainer's BF16."""

    precision: str
    """As the replica describes itself."""
    engine: str
    sequences: int
    tokens: int
    figures: dict[str, Estimate]


async def sample(
    replica: ReplicaRecord,
    credential: Credential,
    task: TaskSource,
    tokenizer: PolicyTokenizer,
    settings: Settings,
    prompts: int,
) -> list[list[Sample]]:
    """One group for each of the task's first prompts."""
    client = GenerationClient(replica.grpc_address, credential=credential)
    room = asyncio.Semaphore(max(1, replica.slots // settings.run.samples_per_group))

    async def group(ordinal: int) -> list[Sample]:
        token_ids = tokenizer.encode_prompt(task.prompt(ordinal).text)
        async with room:
            trajectories = await client.generate(
                f"mismatch-{ordinal}",
                token_ids,
                settings.run.samples_per_group,
                settings.collector.sampling.model_copy(update={"seed": settings.run.seed + ordinal}),
                TrajectoryBounds(vocab_size=replica.vocab_size),
                CALL_SECONDS,
            )
        return [Sample(torch.tensor(token_ids, dtype=torch.int32).numpy(), one) for one in trajectories]

    try:
        with Progress(transient=True) as progress:
            return [
                await done
                for done in progress.track(
                    asyncio.as_completed([group(ordinal) for ordinal in range(prompts)]),
                    total=prompts,
                    description=f"sampling, {replica.precision}",
                )
            ]
    finally:
        await client.close()


def measure(policy: Policy, groups: Sequence[Sequence[Sample]], tokens_per_microbatch: int) -> torch.Tensor:
    """float64 [groups, sums]: ais_core's sums of each group."""
    correction = build(CorrectionSettings(method="none"))
    rows = []
    for group in groups:
        parts = []
        for microbatch in cut(group, tokens_per_microbatch):
            microbatch = microbatch.to(policy.device)
            with torch.no_grad():
                logprobs = policy.score(microbatch).logprobs
            ratios = SequenceBatch.packed(log_ratio(logprobs, microbatch.behaviour_logprobs), microbatch.lengths)
            parts.append(correction.measure(ratios, torch.zeros(len(microbatch.lengths), device=policy.device)).cpu())
        rows.append(torch.stack(parts).sum(0))
    return torch.stack(rows)


def estimate(sums: torch.Tensor, seed: int) -> dict[str, Estimate]:
    """Every figure of all groups together, with the spread it has when prompts are drawn again."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=generator)
    resampled = [summarize(sums[chosen].sum(0)) for chosen in drawn]
    whole = summarize(sums.sum(0))
    return {
        name: Estimate(
            getattr(whole, name), float(torch.tensor([getattr(one, name) for one in resampled]).double().std())
        )
        for name in FIGURES
    }


async def push_probed(
    replica: ReplicaRecord, keyring: Keyring, settings: Settings, groups: Sequence[Sequence[Sample]]
) -> None:
    """Sends the replica's own weights again, as version 1, with a probe of those samples."""
    policy, probe = Policy.load(settings.run.model, settings.trainer.compute.device), settings.trainer.probe
    chosen = [group[0] for group in groups[: probe.sequences]]
    whole = [[*one.prompt_token_ids.tolist(), *one.trajectory.token_ids.tolist()] for one in chosen]
    sequences = tuple(tuple(one[: probe.tokens]) for one in whole)
    snapshot = write_snapshot(1, policy.shapes, policy.weights(), take_probe(policy, sequences))
    files = [one.path for one in snapshot.files]
    async with http_client(replica, keyring, Role.TRAINER) as http:
        await upload(http, str(http.base_url), full_offer(1, files), these(files))


async def compare(
    settings: Settings,
    precisions: Mapping[str, Mapping[str, str]],
    prompts: int,
    heads: Sequence[str] = (),
) -> dict[str, Mismatch]:
    """Samples with one replica after another, then scores. `precisions`: their settings, by their names. `heads`: of
    the trainer, by names of `HEADS`; none is the settings' own."""
    task = open_task(settings.collector.task, settings.run.seed, Split.HELD_OUT)
    tokenizer = open_tokenizer(settings.run.model, settings.collector.prompt)
    sampled: dict[str, tuple[ReplicaRecord, list[list[Sample]]]] = {}
    with TemporaryDirectory(prefix="ais-mismatch-") as scratch:
        directory = Path(scratch)
        config = directory / "config.toml"
        config.write_text(to_toml(settings), encoding="utf-8")
        tokens = tokens_of(settings.security, directory)
        keyring = Keyring(tokens)
        credential = keyring.credential(Role.COLLECTOR)
        async with Processes(
            directory / "logs", settings.launcher.stop_grace_seconds, environment=tokens_environment(tokens)
        ) as processes:
            redis, _server = await provide_redis(processes, settings.redis, directory / "valkey")
            for number, (name, precision) in enumerate(precisions.items()):
                print(f"starting a {name} replica", flush=True)
                overrides = [f"rollout.precision.{key}={value}" for key, value in precision.items()]
                run_name = f"mismatch-{os.getpid()}-{number}"
                async with serving_replica(processes, config, redis, run_name, overrides) as replica:
                    if name == PROBED:
                        _, groups = next(iter(sampled.values()))
                        await push_probed(replica, keyring, settings, groups)
                    sampled[name] = (replica, await sample(replica, credential, task, tokenizer, settings, prompts))
    print("scoring by the trainer's policy", flush=True)
    policy = Policy.load(settings.run.model, settings.trainer.compute.device)
    found: dict[str, Mismatch] = {}
    for name, (replica, groups) in sampled.items():
        for head in heads or ("",):
            policy.scoring.float32_head = HEADS[head] if head else settings.trainer.float32_head
            sums = measure(policy, groups, settings.trainer.compute.tokens_per_microbatch)
            found[f"{name}_by_{head}_trainer" if head else name] = Mismatch(
                precision=str(replica.precision),
                engine=replica.engine,
                sequences=sum(map(len, groups)),
                tokens=sum(len(one.trajectory.token_ids) for group in groups for one in group),
                figures=estimate(sums, settings.run.seed),
            )
    return found


def show(found: dict[str, Mismatch], model: Path, parts: Mapping[str, float]) -> None:
    """`parts`: shares of the last row's k3, where the rows are its parts."""
    table = Table("precision", "mean |log-ratio|", "k3", "token ESS ratio", "sequence ESS ratio", "tokens")
    if parts:
        table.add_column("part of k3")
    table.title = f"{model}, {next(iter(found.values())).engine} engine, against the trainer's BF16"
    for number, (name, one) in enumerate(found.items()):
        told = f"+ {name}" if parts and number else name
        share = [f"{parts[name]:.0%}"] if parts else []
        table.add_row(told, *map(str, one.figures.values()), str(one.tokens), *share)
    Console().print(table)


def figures(found: dict[str, Mismatch]) -> dict[str, dict[str, float | str | None]]:
    """Against BF16 where that was measured too: the part of the mismatch that is not of the number format."""
    rows: dict[str, dict[str, float | str | None]] = {}
    for name, one in found.items():
        for measure_of, unit in FIGURES.items():
            value = one.figures[measure_of]
            reference = found["bf16"].figures[measure_of].value if "bf16" in found and name != "bf16" else None
            rows[f"{name}_{measure_of}"] = {
                "value": _finite(value.value),
                "error": _finite(value.error),
                "unit": unit,
                "reference": reference,
                "ratio": value.value / reference if reference else None,
            }
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, default=EXAMPLE, help=f"default: {EXAMPLE}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--model", type=Path, help="model directory, instead of the settings' own")
    parser.add_argument("--engine", choices=("torch", "vllm"), help="engine, instead of the settings' own")
    parser.add_argument("--precisions", default="bf16,fp8,int8", help=f"of {','.join(PRECISIONS)}")
    parser.add_argument(
        "--prompts", type=int, default=64, help="held-out prompts; run.samples_per_group responses each"
    )
    parser.add_argument(
        "--trainer-heads", default="", help="bf16,float32: score with each; else with the settings' own"
    )
    parser.add_argument("--explain", action="store_true", help="the parts of the settings' own precision, one by one")
    parser.add_argument("--output", type=Path, help="JSON file to write; else in benchmarks/results")
    arguments = parser.parse_args()
    precisions = arguments.precisions.split(",")
    if unknown := [name for name in precisions if name not in PRECISIONS]:
        parser.error(f"--precisions: there is no {', '.join(unknown)}; there are {', '.join(PRECISIONS)}")
    if precisions[0] == PROBED:
        parser.error(f"--precisions: {PROBED} needs another one before it, whose samples are its probe")
    heads = arguments.trainer_heads.split(",") if arguments.trainer_heads else []
    if arguments.explain and heads:
        parser.error("--explain scores with the settings' own head: leave --trainer-heads out")
    if unknown := [name for name in heads if name not in HEADS]:
        parser.error(f"--trainer-heads: there is no {', '.join(unknown)}; there are {', '.join(HEADS)}")
    overrides = list(arguments.overrides)
    overrides += [f"run.model={arguments.model}"] if arguments.model else []
    overrides += [f"rollout.engine={arguments.engine}"] if arguments.engine else []
    chosen = {name: PRECISIONS[name] for name in precisions}
    try:
        settings = load(arguments.config, overrides)
        if arguments.explain:
            chosen = stages(settings.rollout.precision)
        torch.set_num_threads(settings.trainer.compute.threads)
        found = asyncio.run(compare(settings, chosen, arguments.prompts, heads))
    except (SettingsError, NothingToExplainError) as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    except (UnavailableError, ProcessFailedError, UploadError) as error:
        print(f"mismatch: {error}", file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)
    parts = shares({name: one.figures["k3"].value for name, one in found.items()}) if arguments.explain else {}
    show(found, settings.run.model, parts)
    result = {
        "bench": "mismatch",
        "machine": machine(),
        "commit": commit(),
        "model": str(settings.run.model),
        "engine": next(iter(found.values())).engine,
        "temperature": settings.collector.sampling.temperature,
        "sampled": {
            name: {"precision": one.precision, "sequences": one.sequences, "tokens": one.tokens}
            for name, one in found.items()
        },
        "figures": figures(found) | {f"{name}_part": figure(share, "of k3") for name, share in parts.items()},
    }
    output = arguments.output or RESULTS / ("mismatch_budget.json" if arguments.explain else "mismatch.json")
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
