"""One layer of experts as vLLM loads it and loads it again, without an engine, in a process of its own.

`python experts_alone.py DIRECTORY`: for each kind there with the models a and b, in BF16 and in FP8, DIRECTORY has then
{kind}-{precision}.safetensors: what the layer gives when a is loaded (first), then b (other), then a (again), each bf16
[tokens, features]; and of GPT-OSS the sinks of b as they serve. Its metadata has the dtypes of the weights after each.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

LAYER, HIDDEN, TOKENS, EXPERTS, CHOSEN = 1, 128, 17, 4, 2
KINDS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        "num_experts": EXPERTS,
        "num_experts_per_tok": CHOSEN,
        "moe_intermediate_size": 96,
        "norm_topk_prob": True,
    },
    "gpt_oss": {"num_local_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "intermediate_size": 96},
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "fp8": {"quantization": "fp8_per_channel", "additional_config": {"ais_cpu_fp8_kernel": "bf16_copy"}},
}


def write_models(directory: Path) -> None:
    """Two random models of each kind."""
    common = {"vocab_size": 64, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2}
    common |= {"num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 128}
    for kind, shape in KINDS.items():
        for seed, name in enumerate("ab"):
            torch.manual_seed(seed)
            config = AutoConfig.for_model(kind, **common | shape, initializer_range=0.1, eos_token_id=None)
            model = AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for parameter_name, parameter in model.named_parameters():
                    if parameter_name.endswith(("bias", "sinks")):
                        parameter += 0.5 * torch.randn_like(parameter)
            model.bfloat16().save_pretrained(directory / kind / name)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens bf16 [tokens, features], and the weights and numbers of each one's experts [tokens, chosen]."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(TOKENS, HIDDEN, generator=generator).bfloat16()
    chosen = torch.stack([torch.randperm(EXPERTS, generator=generator)[:CHOSEN] for _ in range(TOKENS)])
    return tokens, torch.rand(TOKENS, CHOSEN, generator=generator), chosen.int()


def main(directory: Path) -> None:
    # Without its worker, who puts these out of the way on a CPU.
    torch.accelerator.empty_cache = lambda: None
    from vllm.config import set_current_vllm_config
    from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
    from vllm.engine.arg_utils import EngineArgs

    def configured(model: Path, precision: str) -> Any:
        arguments = {"skip_tokenizer_init": True, "dtype": "bfloat16", "max_model_len": 128, "enforce_eager": True}
        return EngineArgs(model=str(model), **arguments, **PRECISIONS[precision]).create_engine_config()

    with set_current_vllm_config(configured(directory / "qwen3_moe/a", "bf16")):
        init_distributed_environment(1, 0, f"file://{directory}/meeting", 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
    for kind in KINDS:
        for precision in PRECISIONS:
            config = configured(directory / kind / "a", precision)
            with set_current_vllm_config(config):
                tensors, dtypes = given(config, directory / kind)
                save_file(tensors, directory / f"{kind}-{precision}.safetensors", dtypes)


def given(config: Any, models: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from types import SimpleNamespace

    from vllm.forward_context import set_forward_context
    from vllm.model_executor.model_loader import get_model

    from ais.rollout.engines.vllm_engine.worker_extension import SnapshotTransferEngine, SnapshotUpdate, weight_dtypes

    model = get_model(vllm_config=config)
    layer = model.get_submodule(f"model.layers.{LAYER}.mlp.experts").routed_experts

    def output() -> torch.Tensor:
        with torch.no_grad(), set_forward_context(None, config):
            method = layer.quant_method
            return method.apply(layer, *inputs(), shared_experts=None, shared_experts_input=None).clone()

    def load(name: str) -> None:
        rank: Any = SimpleNamespace(model=model, model_config=config.model_config)
        SnapshotTransferEngine.start_weight_update(rank)
        update = SnapshotUpdate(paths=[str(models / name / "model.safetensors")], format="bf16")
        SnapshotTransferEngine.receive_weights(rank, update)
        SnapshotTransferEngine.finish_weight_update(rank)

    found, dtypes = {"first": output()}, {"first": " ".join(weight_dtypes(model))}
    load("b")
    found["other"], dtypes["other"] = output(), " ".join(weight_dtypes(model))
    for name, parameter in model.named_parameters():
        if name.endswith(f"layers.{LAYER}.attn.sinks"):
            found["sinks"] = parameter.detach().clone()
    load("a")
    return found | {"again": output()}, dtypes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
