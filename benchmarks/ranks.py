"""What a rank costs: memory and time of a training step, in one process and on two ranks, with and without activations.

The learner trains a model of 70 million parameters on made-up groups, as the service would call it, without Redis and
replicas. Memory is what a process's resident set has over that of Python with its libraries: `state` between two steps
(masters and moments), `peak` at its highest during the steps (gradients, activations, the layers being gathered,
logits). Loading, which reads the whole model on every rank, is not counted. Ranks talk over gloo on loopback: their
time says what sharding costs on this processor, and nothing about GPUs.

    ais bench ranks            # prints a table, writes benchmarks/results/ranks.json
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, Qwen3Config, Qwen3ForCausalLM

from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import PolicySpan, ScoredGroup, Trajectory
from ais.runtime.process import die_with_parent
from ais.runtime.settings import RunSettings
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.ranks.ranks import join
from ais.trainer.ranks.sharding import load_policy
from ais.trainer.settings import ComputeSettings, TrainerSettings
from ais_core.settings import CorrectionSettings
from benchmarks.support.report import Figure, figure, publish

VOCABULARY = 32_000
LAYERS = 10
GROUPS, SAMPLES, PROMPT, RESPONSE = 2, 4, 32, 128
WARM_UP_STEPS = 1
MEBIBYTE = 1 << 20


def config(layers: int, vocabulary: int) -> Qwen3Config:
    """70M parameters with ten layers."""
    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=640, num_hidden_layers=layers, num_attention_heads=10, num_key_value_heads=5,
        head_dim=64, intermediate_size=1920, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip


def group(ordinal: int, vocabulary: int) -> ScoredGroup:
    random = np.random.default_rng(ordinal)

    def trajectory(index: int) -> Trajectory:
        return Trajectory(
            trajectory_id=f"{ordinal}/{index}", group_id=str(ordinal), sample_index=index,
            token_ids=random.integers(vocabulary, size=RESPONSE, dtype=np.int32),
            behaviour_logprobs=np.full(RESPONSE, -10.0, np.float32), spans=(PolicySpan(0, 0, RESPONSE),),
            finish_reason=FinishReason.LENGTH, sampling=SamplingParameters(max_new_tokens=RESPONSE),
            precision=Precision(), engine="made up", engine_version="0", replica_id="none",
            first_token_seconds=0.0, total_seconds=0.0,
        )  # fmt: skip

    return ScoredGroup(
        group_id=str(ordinal), ordinal=ordinal, prompt_id="prompt", prompt_token_ids=np.arange(PROMPT, dtype=np.int32),
        trajectories=tuple(trajectory(index) for index in range(SAMPLES)),
        rewards=tuple(float(index % 2) for index in range(SAMPLES)), task="none", attempt=1,
    )  # fmt: skip


def status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(lines[field].split()[0]) * 1024


def trim() -> None:
    """Gives back to the system what is free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def work(model: Path, steps: int, activation_checkpointing: bool) -> None:
    """What one process of the benchmark does; rank 0 prints what it found as JSON."""
    die_with_parent()
    settings = TrainerSettings(
        compute=ComputeSettings(
            device="cpu",
            tokens_per_microbatch=2 * (PROMPT + RESPONSE),
            activation_checkpointing=activation_checkpointing,
        )
    )
    torch.set_num_threads(1)
    ranks = join(settings)
    vocabulary = AutoConfig.from_pretrained(model).vocab_size
    bare = status("VmRSS")
    policy = load_policy(model, settings, ranks)
    learner = Learner(policy, RunSettings(steps=steps), settings, CorrectionSettings(), ranks=ranks)
    trim()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM begins anew
    seconds = []
    for step in range(WARM_UP_STEPS + steps):
        begin = time.perf_counter()
        learner.step([group(GROUPS * step + index, vocabulary) for index in range(GROUPS)], PhaseClock())
        seconds.append(time.perf_counter() - begin)
    peak = status("VmHWM") - bare
    trim()
    if ranks.first:
        found = {"state": status("VmRSS") - bare, "peak": peak, "seconds": median(seconds[WARM_UP_STEPS:])}
        print(json.dumps(found), flush=True)
    ranks.leave()


def measure(model: Path, ranks: int, steps: int, activation_checkpointing: bool) -> dict[str, float]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
    options = ["--work", str(model), "--steps", str(steps)]
    options += ["--activation-checkpointing"] if activation_checkpointing else []
    done = subprocess.run(
        [sys.executable, *(launch or ["-m"]), "benchmarks.ranks", *options],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="steps that are measured, after one that is not")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--layers", type=int, default=LAYERS, help="layers of the model")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--activation-checkpointing", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments.work, arguments.steps, arguments.activation_checkpointing)
        return
    table = Table("processes", "activations", "state, MiB", "peak, MiB", "step, s")
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as directory:
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config(arguments.layers, arguments.vocabulary))
        parameters = model.num_parameters()
        figures["parameters"] = figure(parameters, "parameters")
        model.save_pretrained(directory)
        alone: dict[str, float] = {}
        for checkpointing, kept in ((False, "kept"), (True, "computed again")):
            for ranks in (1, 2):
                found = measure(Path(directory), ranks, arguments.steps, checkpointing)
                alone = alone or found
                name = f"ranks_{ranks}" + ("_checkpointing" if checkpointing else "")
                for memory in ("state", "peak"):
                    figures[f"{name}_{memory}"] = figure(found[memory] / MEBIBYTE, "MiB", alone[memory] / MEBIBYTE)
                figures[f"{name}_step"] = figure(found["seconds"], "s", alone["seconds"])
                sizes = (f"{found[memory] / MEBIBYTE:.0f}" for memory in ("state", "peak"))
                table.add_row(str(ranks), kept, *sizes, f"{found['seconds']:.2f}")
    table.title = f"{parameters / 1e6:.0f}M parameters, 8 sequences of 160 tokens; memory of rank 0"
    Console().print(table)
    publish("ranks", figures)


if __name__ == "__main__":
    main()
