"""Tokens a second of an engine: torch (the default) against `transformers`, vLLM's precisions against one another.

torch: against `generate` on the same model, prompts and batch. Both sample at temperature 1 to a fixed length in one
process and one thread, taking turns, so that a busy machine is busy for both; figures are medians of the rounds. The
engine also gives log-probs and versions, `generate` only tokens. On a CPU without BF16 instructions `generate` in BF16
is slow; its float32 figure tells how much of the ratio that is.

vllm: BF16, FP8 and INT8, called directly and through our service; see `rollout_vllm.py`.

    ais bench rollout                  # prints a table, writes benchmarks/results/rollout.json
    ais bench rollout --engine vllm    # the same for vLLM; writes benchmarks/results/rollout_vllm.json
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from ais.contracts.sampling import Precision, SamplingParameters
from ais.rollout.engine import Engine, GenerationRequest
from ais.rollout.engines.probe import tolerance
from ais.rollout.engines.torch_engine.engine import TorchEngine
from benchmarks.support import rollout_vllm
from benchmarks.support.report import Figure, figure, publish

UNIT = "tokens/s"
ROUNDS = 5
BF16 = Precision(weights="bf16")
E4M3 = Precision()

Round = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """One model and one batch: `groups` prompts with `samples` responses each."""

    name: str
    config: Qwen3Config
    groups: int
    samples: int
    prompt: int
    response: int

    @property
    def tokens(self) -> int:
        return self.groups * self.samples * self.response

    def prompts(self) -> Tensor:
        """int64 [groups, prompt]."""
        shape = (self.groups, self.prompt)
        return torch.randint(3, self.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))


CASES = (
    Case(
        "600k",
        Qwen3Config(
            vocab_size=22, hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            head_dim=32, intermediate_size=384, max_position_embeddings=512, tie_word_embeddings=False,
            eos_token_id=None,
        ),
        groups=16, samples=8, prompt=32, response=64,
    ),
    Case(
        "demo",
        Qwen3Config(
            vocab_size=22, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=32, intermediate_size=192, max_position_embeddings=512, tie_word_embeddings=False,
            eos_token_id=None,
        ),
        groups=32, samples=8, prompt=18, response=17,
    ),
)  # fmt: skip


class Unobserved:
    """Measures nothing; implements EngineObserver."""

    def decode_step(self, seconds: float, tokens: int) -> None: ...


async def sample_all(engine: Engine, case: Case) -> None:
    """Every response of the case, all groups at once."""
    sampling = SamplingParameters(max_new_tokens=case.response)

    async def group(index: int, prompt: list[int]) -> int:
        request = GenerationRequest(f"group-{index}", tuple(prompt), case.samples, sampling)
        return sum([len(completion.token_ids) async for completion in engine.generate(request)])

    sampled = await asyncio.gather(*(group(*numbered) for numbered in enumerate(case.prompts().tolist())))
    assert sum(sampled) == case.tokens


def generate_all(model: Qwen3ForCausalLM, case: Case, cache: str) -> None:
    """The same with `generate`."""
    prompts = case.prompts()
    output = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        num_return_sequences=case.samples,
        min_new_tokens=case.response,
        max_new_tokens=case.response,
        cache_implementation=cache,
        disable_compile=True,
        pad_token_id=0,
    )
    assert output.shape == (case.groups * case.samples, case.prompt + case.response)


async def measure(case: Case, rounds: int) -> dict[str, float]:
    """Tokens a second of each contender, by name."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(case.config).bfloat16().eval()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model.save_pretrained(directory)
        contenders: dict[str, Round] = {}
        for name, precision in (("engine bf16", BF16), ("engine e4m3", E4M3)):
            engine = await TorchEngine.open(
                directory,
                precision,
                Unobserved(),
                slots=case.groups * case.samples,
                max_model_len=case.config.max_position_embeddings,
                max_waiting_sequences=0,
                probe_tolerance=tolerance(precision),
            )
            stack.push_async_callback(engine.close)
            contenders[name] = partial(sample_all, engine, case)
        for dtype in (torch.bfloat16, torch.float32):
            reference = Qwen3ForCausalLM.from_pretrained(directory, dtype=dtype).eval()
            for cache in ("static", "dynamic"):
                name = f"generate {str(dtype).removeprefix('torch.')} {cache}"
                contenders[name] = partial(asyncio.to_thread, generate_all, reference, case, cache)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds + 1):
            for name, contender in contenders.items():
                begun = time.perf_counter()
                await contender()
                if number > 0:  # the first round warms up
                    seconds[name].append(time.perf_counter() - begun)
    return {name: case.tokens / median(times) for name, times in seconds.items()}


def figures(case: Case, speeds: dict[str, float]) -> dict[str, Figure]:
    """Each contender's speed; the engine's against the faster `generate` of the same model in BF16, and in float32."""
    bf16 = max(speed for name, speed in speeds.items() if name.startswith("generate bfloat16"))
    float32 = max(speed for name, speed in speeds.items() if name.startswith("generate float32"))

    found = {f"{case.name}_{name.replace(' ', '_')}": figure(speed, UNIT) for name, speed in speeds.items()}
    found[f"{case.name}_engine_bf16"] = figure(speeds["engine bf16"], UNIT, bf16)
    found[f"{case.name}_engine_bf16_against_float32"] = figure(speeds["engine bf16"], UNIT, float32)
    found[f"{case.name}_engine_e4m3"] = figure(speeds["engine e4m3"], UNIT, bf16)
    return found


def show(case: Case, speeds: dict[str, float], rounds: int) -> None:
    table = Table(
        "sampler",
        "tokens/s",
        title=f"{case.name}: {case.groups} x {case.samples} sequences of {case.prompt} + {case.response} tokens, "
        f"median of {rounds} rounds",
    )
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:,.0f}")
    Console().print(table)


async def run_torch(rounds: int) -> None:
    torch.set_num_threads(1)
    found: dict[str, Figure] = {}
    for case in CASES:
        speeds = await measure(case, rounds)
        found |= figures(case, speeds)
        show(case, speeds, rounds)
    publish("rollout", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("torch", "vllm"), default="torch")
    parser.add_argument(
        "--rounds", type=int, help="rounds that count, after one that does not (torch: 5; vllm: 0.6b 3, tiny 15)"
    )
    rollout_vllm.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.engine == "vllm":
        rollout_vllm.run(arguments)
    else:
        asyncio.run(run_torch(arguments.rounds or ROUNDS))


if __name__ == "__main__":
    main()
