"""Tiny random models of both families, and what tests ask of their engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from ais.contracts.sampling import SamplingParameters
from ais.rollout.engine import Completion, Engine, GenerationRequest

VOCABULARY = 48
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "eos_token_id": None,
}


def random_model(kind: str, seed: int) -> PreTrainedModel:
    """qwen3: untied. llama: tied, biases, llama3 rotary scaling, one key-value head for four queries."""
    torch.manual_seed(seed)
    if kind == "qwen3":
        model: PreTrainedModel = Qwen3ForCausalLM(Qwen3Config(**COMMON, head_dim=32, tie_word_embeddings=False))
    else:
        scaling = {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
        shape = COMMON | {"num_key_value_heads": 1}
        model = LlamaForCausalLM(
            LlamaConfig(**shape, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rope_parameters=scaling)
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter += 0.2 * torch.randn_like(parameter)
    return model.bfloat16().eval()


class Observer:
    """Lets a test wait for decode steps."""

    def __init__(self) -> None:
        self.steps = 0
        self._loop = asyncio.get_running_loop()
        self._stepped = asyncio.Event()

    def decode_step(self, seconds: float, tokens: int) -> None:
        self.steps += 1
        self._loop.call_soon_threadsafe(self._stepped.set)

    async def wait_for_steps(self, steps: int) -> None:
        """Returns when this many more steps have been made."""
        goal = self.steps + steps
        while self.steps < goal:
            self._stepped.clear()
            await asyncio.wait_for(self._stepped.wait(), 20)


async def collect(engine: Engine, request: GenerationRequest) -> list[Completion]:
    """All completions by index."""
    return sorted([completion async for completion in engine.generate(request)], key=lambda c: c.index)


def request_for(
    prompt: tuple[int, ...], samples: int = 1, new_tokens: int = 24, **sampling: object
) -> GenerationRequest:
    """A request whose responses end at their length, unless it names stop tokens."""
    parameters = SamplingParameters.model_validate({"max_new_tokens": new_tokens, "seed": 0} | sampling)
    return GenerationRequest("group", prompt, samples, parameters)


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # nothing tells
            await asyncio.sleep(0.005)
