"""`rollout.py --engine vllm`: BF16, FP8 and INT8 in vLLM, called directly and through our service, in one run.

One process a precision, all alive at once; they take turns, batch by batch and round by round, so that a busy machine
is busy for all. In its turn a process samples the same work twice, straight from vLLM's AsyncLLM and through a gRPC
client and our service with the same AsyncLLM behind it; every other round the service goes first. Ratios are taken
within a round. Weights and prompts are random, responses end at their length; what is timed includes the prompts. The
client of the service runs in the service's process, and all responses end in one step, so that nothing of the service's
work is hidden behind the engine's: that is the most it can cost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from ais.contracts.sampling import Precision
from ais.rollout.settings import RolloutSettings, VllmSettings
from benchmarks.support.report import Figure, publish, spread
from benchmarks.support.vllm_contender import Contender, Way, Work, contender

PROMPT = 32
MOST_SAMPLES = 8
"""Responses to one prompt; a smaller batch has one prompt."""
OVERHEAD_LIMIT = 0.05
"""What is promised: our service takes under 5% of the tokens/s of vLLM driven directly."""
INT8_TARGET = ("0.6b", "int8", 16), 1.3
"""Model, precision and batch, and what that should be against BF16, both direct."""
REFERENCE = "bf16"
STOCK_FP8 = "fp8 stock"
STOCK_FP8_BATCHES = (1, 16)
PRECISIONS = {
    REFERENCE: Precision(weights="bf16"),
    "fp8": Precision(weights="e4m3", granularity="channel", activations="e4m3"),
    "int8": Precision(weights="int8", granularity="channel", activations="int8"),
}

Speeds = Mapping[tuple[str, int, Way], Sequence[float]]
"""Tokens/s of each counted round, by precision, batch and way."""


@dataclass(frozen=True)
class Model:
    """A shape with random weights, and how much of it is sampled."""

    name: str
    config: Qwen3Config
    response: int
    rounds: int


MODELS = {
    "0.6b": Model(
        "0.6b",
        Qwen3Config(
            vocab_size=151_936, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
            head_dim=128, intermediate_size=3072, max_position_embeddings=512, tie_word_embeddings=True,
            eos_token_id=None, bos_token_id=None,
        ),
        response=12, rounds=3,
    ),
    "tiny": Model(
        "tiny",
        Qwen3Config(
            vocab_size=2048, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            head_dim=64, intermediate_size=768, max_position_embeddings=512, tie_word_embeddings=True,
            eos_token_id=None, bos_token_id=None,
        ),
        response=64, rounds=15,
    ),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with --engine vllm")
    group.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS), help="all of them by default")
    group.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    group.add_argument("--batches", nargs="+", type=batch_size, default=[1, 16, 64], metavar="SEQUENCES")
    group.add_argument("--response", type=int, help="tokens of a response (0.6b: 12, tiny: 64)")
    group.add_argument("--vocab", type=int, help="a smaller vocabulary than the model's")
    group.add_argument(
        "--stock-fp8", action="store_true", help="also vLLM's own FP8 kernel on a CPU: direct, batches 1 and 16, once"
    )


def batch_size(text: str) -> int:
    batch = int(text)
    if batch < 1 or batch % min(batch, MOST_SAMPLES):
        raise argparse.ArgumentTypeError(f"expected up to {MOST_SAMPLES}, or a multiple of it, got {text}")
    return batch


def run(arguments: argparse.Namespace) -> None:
    if find_spec("vllm") is None:
        sys.exit("rollout: --engine vllm needs vLLM: `make setup ENGINE=vllm`")
    torch.set_num_threads(1)
    found: dict[str, Figure] = {}
    for name in arguments.model:
        model = MODELS[name]
        model = replace(model, response=arguments.response or model.response, rounds=arguments.rounds or model.rounds)
        if arguments.vocab:
            model.config.vocab_size = arguments.vocab
        speeds, version = measure(model, arguments.precisions, arguments.batches, arguments.stock_fp8)
        found |= figures(model.name, speeds)
        show(model, found, speeds)
    publish("rollout", found, f"vllm {version}", file="rollout_vllm")


def measure(model: Model, precisions: Sequence[str], batches: Sequence[int], stock_fp8: bool) -> tuple[Speeds, str]:
    """Speeds, and vLLM's version."""
    speeds: dict[tuple[str, int, Way], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoint = write_random(model.config, directory / "model")
        contenders: dict[str, Contender] = {}
        for name in [*precisions, *([STOCK_FP8] if stock_fp8 else [])]:
            rollout = settings(name, model, max(batches))
            contenders[name] = stack.enter_context(contender(checkpoint, rollout, directory / f"{name}.log"))
            progress(f"{model.name}: {name} is starting")
            version = contenders[
                name
            ].engine_version()  # one after another: a start takes more memory than what follows
        for number in range(model.rounds + 1):
            progress(f"{model.name}: round {number} of {model.rounds}" if number else f"{model.name}: warming up")
            for batch in batches:
                for name, one in contenders.items():
                    for way in ways(name, batch, number):
                        seconds = one.measure(way, work := work_of(model, batch, number))
                        progress(f"  batch {batch}, {name} {way}: {work.tokens / seconds:.1f} tokens/s")
                        if number > 0:
                            speeds[name, batch, way].append(work.tokens / seconds)
    return speeds, version


def write_random(config: Qwen3Config, directory: Path) -> Path:
    """A BF16 checkpoint, made in BF16: in float32 the larger model would need three times the memory."""
    disable_progress_bar()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    Qwen3ForCausalLM(config).save_pretrained(directory)
    torch.set_default_dtype(torch.float32)
    return directory


def settings(name: str, model: Model, slots: int) -> RolloutSettings:
    return RolloutSettings(
        engine="vllm",
        precision=PRECISIONS["fp8" if name == STOCK_FP8 else name],
        slots=slots,
        max_waiting_sequences=0,
        max_model_len=PROMPT + model.response,
        vllm=VllmSettings(cpu_fp8_kernel="stock" if name == STOCK_FP8 else "bf16_copy"),
    )


def ways(name: str, batch: int, number: int) -> tuple[Way, ...]:
    """What a contender does in its turn. The stock kernel is so slow that one measurement must do."""
    if name == STOCK_FP8:
        return ("direct",) if number == 1 and batch in STOCK_FP8_BATCHES else ()
    return get_args(Way) if number % 2 else get_args(Way)[::-1]


def work_of(model: Model, batch: int, number: int) -> Work:
    samples = min(batch, MOST_SAMPLES)
    response = model.response if number else min(2, model.response)
    return Work(batch // samples, samples, PROMPT, response, seed=number)


def figures(model: str, speeds: Speeds) -> dict[str, Figure]:
    """Medians over the rounds, with their spread. Ratios are each round's own: what slows a round slows both sides."""
    found: dict[str, Figure] = {}
    for precision, batch, way in speeds:
        name = f"{model}_{precision.replace(' ', '_')}_{batch}"
        direct, measured = speeds[precision, batch, "direct"], speeds[precision, batch, way]
        found[f"{name}_{way}"] = spread(measured, "tokens/s")
        if way == "service":
            overhead = [1 - ours / theirs for ours, theirs in zip(measured, direct, strict=True)]
            found[f"{name}_overhead"] = spread(overhead, "share of tokens/s", OVERHEAD_LIMIT)
        elif precision != REFERENCE and (reference := speeds.get((REFERENCE, batch, "direct"))):
            against = [ours / bf16 for ours, bf16 in zip(measured, reference, strict=False)]
            case, times = INT8_TARGET
            target = times if (model, precision, batch) == case else None
            found[f"{name}_against_bf16"] = spread(against, "times BF16", target)
    return found


def show(model: Model, found: Mapping[str, Figure], speeds: Speeds) -> None:
    table = Table(
        "batch", "precision", "direct, tokens/s", "times BF16", "by our service", "which takes",
        title=f"{model.name}: prompts of {PROMPT}, responses of {model.response}, median of {model.rounds} rounds "
        "(lowest to highest)",
    )  # fmt: skip
    for batch, precision in sorted({(batch, precision) for precision, batch, _ in speeds}):
        name = f"{model.name}_{precision.replace(' ', '_')}_{batch}"
        table.add_row(
            str(batch),
            precision,
            cell(found.get(f"{name}_direct"), ",.1f"),
            cell(found.get(f"{name}_against_bf16"), ".2f", spread=True),
            cell(found.get(f"{name}_service"), ",.1f"),
            cell(found.get(f"{name}_overhead"), ".1%", spread=True),
        )
    Console().print(table)


def cell(figure: Figure | None, form: str, spread: bool = False) -> str:
    if figure is None:
        return ""
    value = format(figure["value"], form)
    return f"{value} ({figure['lowest']:{form}} to {figure['highest']:{form}})" if spread else value


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
