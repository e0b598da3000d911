"""vLLM alone, in a process of its own, with our worker extension: what the extension's tests drive.

Run as a program it reads requests from standard input, one JSON array `[method, arguments]` a line, and answers each
with a line `{"result": ...}` or `{"error": "..."}`. vLLM's own output goes to standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 2048
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.08,
    "eos_token_id": None,
    "bos_token_id": None,
}
SEQUENCES = [[(position * 37 + row * 101) % VOCABULARY for position in range(64)] for row in range(4)]
"""What is scored."""

Scores = list[list[float]]
"""Log-probs of each sequence's tokens but the first."""


def random_model(kind: str, seed: int) -> PreTrainedModel:
    """qwen3: untied. llama: tied embeddings, biases in every linear layer."""
    torch.manual_seed(seed)
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**COMMON, head_dim=64, tie_word_embeddings=False)).bfloat16()
    model = LlamaForCausalLM(LlamaConfig(**COMMON, attention_bias=True, mlp_bias=True, tie_word_embeddings=True))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter += 0.2 * torch.randn_like(parameter)
    return model.bfloat16()


class BareEngine:
    """The near end of the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def score(self) -> Scores:
        return self._ask("score")

    def update(self, snapshot: Path, format: str = "bf16") -> None:  # noqa: A002
        """A live update, as the engine of a replica makes it. Raises RuntimeError with what the engine said."""
        self._ask("update", str(snapshot), format)

    def linear(self, layer: str, inputs: torch.Tensor) -> torch.Tensor:
        """What that linear layer makes of bf16 inputs [n, features]: bf16 [n, outputs]."""
        return torch.tensor(self._ask("linear", layer, inputs.tolist())).bfloat16()

    def linear_kernel(self, layer: str) -> str:
        """Name of the class that multiplies for that linear layer."""
        return str(self._ask("linear_kernel", layer))

    def weight_dtype(self, layer: str) -> str:
        """Dtype of that linear layer's weight parameter."""
        return str(self._ask("weight_dtype", layer))

    def rounds_tokens_as_vllm(self, layer: str, inputs: torch.Tensor) -> bool:
        """Whether our fast kernel and vLLM's quantiser give those bf16 inputs the same E4M3 codes and scales."""
        return bool(self._ask("rounds_tokens_as_vllm", layer, inputs.tolist()))

    @property
    def resident_bytes(self) -> int:
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def _ask(self, method: str, *arguments: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps([method, arguments]), file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the engine's process ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


@contextmanager
def bare_engine(model: Path, **arguments: object) -> Iterator[BareEngine]:
    """An engine that serves `model`; `arguments` are vLLM's. It is still starting: the first call waits."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: its memory is the engine's
        "VLLM_LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with subprocess.Popen(
        [sys.executable, __file__, str(model), json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield BareEngine(process)
        finally:
            process.kill()


class _Served:
    """The far end."""

    def __init__(self, model: str, arguments: dict[str, Any]) -> None:
        from vllm import LLM
        from vllm.config import WeightTransferConfig

        from ais.rollout.engines.vllm_engine.arguments import TRANSFER_BACKEND, WORKER_EXTENSION

        self._engine = LLM(
            model=model,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=COMMON["max_position_embeddings"],
            max_num_seqs=8,
            kv_cache_memory_bytes=1 << 26,
            enforce_eager=True,
            seed=0,
            worker_extension_cls=WORKER_EXTENSION,
            weight_transfer_config=WeightTransferConfig(backend=TRANSFER_BACKEND),
            **arguments,
        )
        self._engine.init_weight_transfer_engine({"init_info": {}})
        [self._model] = self._engine.apply_model(lambda model: model)

    def score(self) -> Scores:
        from vllm import SamplingParams

        outputs = self._engine.generate(
            [{"prompt_token_ids": sequence} for sequence in SEQUENCES],
            SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False),
            use_tqdm=False,
        )
        return [
            [step[token].logprob for step, token in zip(output.prompt_logprobs[1:], sequence[1:], strict=True)]
            for output, sequence in zip(outputs, SEQUENCES, strict=True)
        ]

    def update(self, snapshot: str, format: str) -> None:  # noqa: A002
        self._engine.start_weight_update()
        self._engine.update_weights({"update_info": {"paths": [snapshot], "format": format}})
        self._engine.finish_weight_update()
        self._engine.reset_prefix_cache()

    def linear(self, layer: str, inputs: list[list[float]]) -> list[list[float]]:
        with torch.no_grad():
            outputs, _ = self._model.get_submodule(layer)(torch.tensor(inputs).bfloat16())
        return outputs.tolist()

    def linear_kernel(self, layer: str) -> str:
        module = self._model.get_submodule(layer)
        kernel = module.scheme.kernel if hasattr(module, "scheme") else module.quant_method.fp8_linear
        return type(kernel).__name__

    def weight_dtype(self, layer: str) -> str:
        return str(self._model.get_submodule(layer).weight.dtype)

    def rounds_tokens_as_vllm(self, layer: str, inputs: list[list[float]]) -> bool:
        from ais.rollout.engines.vllm_engine.fp8_cpu_kernel import rounded_tokens

        tokens = torch.tensor(inputs).bfloat16()
        ours, our_scales = rounded_tokens(tokens)
        theirs, their_scales = self._model.get_submodule(layer).quant_method.fp8_linear.quant_fp8(tokens)
        return torch.equal(ours, theirs.to(torch.bfloat16)) and torch.equal(our_scales, their_scales)


def _serve(model: str, arguments: dict[str, Any]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    served = _Served(model, arguments)
    for line in sys.stdin:
        method, values = json.loads(line)
        try:
            answer = {"result": getattr(served, method)(*values)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
