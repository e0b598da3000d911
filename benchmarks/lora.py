"""What the trainer needs of memory: all weights, or adapters over frozen ones, each with and without a reference.

A random Qwen3 of a hundred million parameters is trained for two steps on made-up groups, each way in a process of its
own. What counts is the highest resident memory of the steps above what the process had before it loaded the model: the
weights, gradients and moments, and the activations and logits of a microbatch of 128 tokens, which are the same in all
and grow with the microbatch.

    ais bench lora                                            # prints a table, writes benchmarks/results/lora.json
    ais bench lora --model models/smollm2-135m-instruct       # of a model of yours: lora_NAME.json
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen3Config, Qwen3ForCausalLM

from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import PolicySpan, ScoredGroup, Trajectory
from ais.runtime.settings import RunSettings
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.learning.reference import load_reference
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.ranks.sharding import load_policy
from ais.trainer.settings import TrainerSettings
from ais.trainer.weights.snapshot import Staging
from ais_core.settings import CorrectionSettings, MixingSettings
from benchmarks.support.memory import forget_peak, peak
from benchmarks.support.report import Figure, figure, publish

LIMIT = 0.5
"""What is promised: adapters take less than half of the memory."""
RANK = 16
GROUPS, SAMPLES, PROMPT, RESPONSE = 2, 2, 16, 16
WAYS = {"full": (0, "none"), "full_start": (0, "start"), "lora": (RANK, "none"), "lora_start": (RANK, "start")}
"""Rank of the adapters, and the reference."""


@dataclass(frozen=True)
class Memory:
    """One way of training, bytes above the process before it loaded the model."""

    resting: int
    """Between two steps."""
    peak: int
    trained: int
    """Parameters that are trained."""


def write_model(directory: Path, layers: int) -> Path:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=16_384, hidden_size=768, num_hidden_layers=layers, num_attention_heads=12, num_key_value_heads=4,
        head_dim=64, intermediate_size=2048, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).bfloat16().save_pretrained(directory)
    return directory


def groups(vocabulary: int) -> Iterator[ScoredGroup]:
    """Random tokens, as likely as a random model finds them; no other does, so mismatch has no limit here."""
    values = np.random.default_rng(0)
    for ordinal in range(GROUPS):
        yield ScoredGroup(
            group_id=str(ordinal),
            ordinal=ordinal,
            prompt_id=str(ordinal),
            prompt_token_ids=values.integers(3, vocabulary, PROMPT).astype(np.int32),
            trajectories=tuple(
                Trajectory(
                    trajectory_id=f"{ordinal}/{index}",
                    group_id=str(ordinal),
                    sample_index=index,
                    token_ids=values.integers(3, vocabulary, RESPONSE).astype(np.int32),
                    behaviour_logprobs=np.full(RESPONSE, -math.log(vocabulary), dtype=np.float32),
                    spans=(PolicySpan(0, 0, RESPONSE),),
                    finish_reason=FinishReason.STOP,
                    sampling=SamplingParameters(max_new_tokens=RESPONSE),
                    precision=Precision(),
                    engine="benchmark",
                    engine_version="0",
                    replica_id="replica-0",
                    first_token_seconds=0.0,
                    total_seconds=0.0,
                )
                for index in range(SAMPLES)
            ),
            rewards=tuple(float(index % 2) for index in range(SAMPLES)),
            task="benchmark",
            attempt=1,
        )


def measure(model: Path, staging: Path, way: str) -> Memory:
    """Trains two steps, and writes their versions to `staging`. Call it in a process of its own."""
    torch.set_num_threads(1)
    rank, reference = WAYS[way]
    settings = TrainerSettings.model_validate(
        {
            "lora": {"rank": rank},
            "objective": {"reference": {"policy": reference}},
            "compute": {"device": "cpu", "tokens_per_microbatch": GROUPS * SAMPLES * (PROMPT + RESPONSE)},
        }
    )
    run, ranks = RunSettings(model=model), Ranks(torch.device("cpu"))
    correction = CorrectionSettings(method="none", mixing=MixingSettings(mismatch_limit=math.inf))
    if rank:
        import peft  # noqa: F401  # its own code is no cost of training

    own = os.getpid()
    before = forget_peak(own)
    policy = load_policy(model, settings, ranks)
    learner = Learner(
        policy, run, settings, correction, Staging(staging), ranks, load_reference(run, settings, policy, ranks)
    )
    batch = list(groups(policy.vocab_size))
    forget_peak(own)
    for _ in range(2):
        figures = learner.step(batch, PhaseClock()).figures
        assert figures.updates == 1, "the step was left out"
    highest = peak(own)
    return Memory(forget_peak(own) - before, highest - before, sum(one.numel() for one in policy.masters.values()))


def figures_of(found: dict[str, Memory]) -> dict[str, Figure]:
    made = {}
    for way, memory in found.items():
        full = found["full_start" if way.endswith("start") else "full"]
        made[f"{way}_peak"] = figure(memory.peak, "bytes", None if memory is full else full.peak)
        made[f"{way}_resting"] = figure(memory.resting, "bytes", None if memory is full else full.resting)
        made[f"{way}_trained"] = figure(memory.trained, "parameters")
    for way in ("lora", "lora_start"):
        made[f"{way}_share"] = figure(made[f"{way}_peak"]["ratio"] or 0.0, "of full training", LIMIT)  # type: ignore[arg-type]
    return made


def show(found: dict[str, Memory]) -> None:
    table = Table("way", "trained", "peak of the steps, MB", "between steps, MB", title="memory of the trainer")
    for way, memory in found.items():
        table.add_row(way, f"{memory.trained:,}", f"{memory.peak / 1e6:,.0f}", f"{memory.resting / 1e6:,.0f}")
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=14, help="decoder layers of the random model")
    parser.add_argument("--model", type=Path, help="Hugging Face directory to train in place of it")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        model = arguments.model or write_model(Path(directory) / "model", arguments.layers)
        for way in WAYS:
            with get_context("spawn").Pool(1) as pool:
                found[way] = pool.apply(measure, (model, Path(directory), way))
            print(f"{way}: {found[way].peak / 1e6:,.0f} MB", file=sys.stderr, flush=True)
    show(found)
    publish("lora", figures_of(found), file=f"lora_{arguments.model.name}" if arguments.model else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
