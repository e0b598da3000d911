"""Tokens a second of the torch engine, against `transformers` `generate` on the same model, prompts and batch.

Both sample at temperature 1 to a fixed length in one process and one thread, taking turns, so that a busy machine is
busy for both; figures are medians of the rounds. The engine also gives log-probs and versions, `generate` only tokens.
On a CPU without BF16 instructions `generate` in BF16 is slow; its float32 figure tells how much of the ratio that is.

    python benchmarks/rollout.py          # prints a table, writes benchmarks/results/rollout.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
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

from services.contracts.sampling import Precision, SamplingParameters
from services.rollout.engine import Engine, GenerationRequest
from services.rollout.engines.torch_engine.engine import TorchEngine
from services.rollout.probe import tolerance

RESULTS = Path(__file__).parent / "results" / "rollout.json"
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


def figures(case: Case, speeds: dict[str, float]) -> dict[str, dict[str, float | str | None]]:
    """Each contender's speed; the engine's against the faster `generate` of the same model in BF16, and in float32."""
    bf16 = max(speed for name, speed in speeds.items() if name.startswith("generate bfloat16"))
    float32 = max(speed for name, speed in speeds.items() if name.startswith("generate float32"))

    def figure(value: float, reference: float | None) -> dict[str, float | str | None]:
        ratio = None if reference is None else value / reference
        return {"value": value, "unit": "tokens/s", "reference": reference, "ratio": ratio}

    found = {f"{case.name}_{name.replace(' ', '_')}": figure(speed, None) for name, speed in speeds.items()}
    found[f"{case.name}_engine_bf16"] = figure(speeds["engine bf16"], bf16)
    found[f"{case.name}_engine_bf16_against_float32"] = figure(speeds["engine bf16"], float32)
    found[f"{case.name}_engine_e4m3"] = figure(speeds["engine e4m3"], bf16)
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


def machine() -> str:
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in cpu.read_text().splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    features = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({features}), {os.cpu_count()} cores, {torch.get_num_threads()} thread, torch {torch.__version__}"


def commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "none"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, float | str | None]] = {}
    for case in CASES:
        speeds = await measure(case, arguments.rounds)
        found |= figures(case, speeds)
        show(case, speeds, arguments.rounds)
    result = {"bench": "rollout", "machine": machine(), "commit": commit(), "figures": found}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
