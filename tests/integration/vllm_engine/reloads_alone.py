"""Every family's model as vLLM loads it and loads it again, without an engine, in a process of its own.

`python reloads_alone.py DIRECTORY` prints a line of JSON for each family, in BF16: the share of the model's numbers in
which two versions a and b differ (moved), and the tensors that are not those of b after a and then b were loaded
(stale).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ais.rollout.engines.vllm_engine.support import lend_torchvision
from benchmarks.models.families import FAMILIES, write_family

FIRST = "Qwen3-MoE"
"""vLLM makes a group for experts when it starts with a model that has some."""


def main(directory: Path) -> None:
    lend_torchvision(FAMILIES["Qwen3.5"][0])
    # Without its worker, who puts these out of the way on a CPU.
    torch.accelerator.empty_cache = lambda: None
    from vllm.config import set_current_vllm_config
    from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment

    for family in sorted(FAMILIES, key=lambda name: name != FIRST):
        a, b = (write_family(family, directory / family / name, seed) for seed, name in enumerate("ab"))
        with set_current_vllm_config(config := configured(a)):
            if family == FIRST:
                init_distributed_environment(1, 0, f"file://{directory}/meeting", 0, "gloo")
                ensure_model_parallel_initialized(1, 1)
            model = loaded(config)
            first = tensors(model)
            load_again(model, config, b)
        with set_current_vllm_config(config := configured(b)):
            expected = tensors(loaded(config))
        found = tensors(model)
        moved = sum(int((first[name] != tensor).sum()) for name, tensor in expected.items())
        share = moved / sum(tensor.numel() for tensor in expected.values())
        stale = sorted(name for name, tensor in expected.items() if not torch.equal(found[name], tensor))
        print(json.dumps({"family": family, "moved": share, "stale": stale}), flush=True)


def configured(model: Path) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    arguments = {"skip_tokenizer_init": True, "dtype": "bfloat16", "max_model_len": 128, "enforce_eager": True}
    return EngineArgs(model=str(model), **arguments).create_engine_config()


def loaded(config: Any) -> torch.nn.Module:
    from vllm.model_executor.model_loader import get_model

    return get_model(vllm_config=config)


def load_again(model: torch.nn.Module, config: Any, version: Path) -> None:
    from ais.rollout.engines.vllm_engine.worker_extension import SnapshotTransferEngine, SnapshotUpdate

    rank: Any = SimpleNamespace(model=model, model_config=config.model_config)
    SnapshotTransferEngine.start_weight_update(rank)
    SnapshotTransferEngine.receive_weights(
        rank, SnapshotUpdate(paths=[str(version / "model.safetensors")], format="bf16")
    )
    SnapshotTransferEngine.finish_weight_update(rank)


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers, in float32."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().float().clone() for name, tensor in found.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
