"""INT8 W8A8 checkpoints for vLLM, made from BF16 ones: weights per output channel, activations per token.

The format is that of compressed-tensors, which vLLM serves with its own kernels on CPU and CUDA. Weights are rounded as
everywhere in this project, by `ais_core.numerics`: a checkpoint on disk and a snapshot pushed to a running engine give
the same codes and scales. Embeddings, norms and the output head stay BF16.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ais.rollout.engines.snapshots import snapshot_files
from ais_core.numerics import encode_weight

QUANTIZATION_CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
    "ignore": ["lm_head"],
}
"""What config.json says of such a checkpoint."""

QUANTIZED_SUFFIX = "_proj.weight"
"""How the weights of the linear layers of a decoder are named, in the Qwen3 and Llama families."""
COPIED_SUFFIXES = (".json", ".txt", ".model", ".jinja")
"""Files of a model directory that are not weights: tokenizer, generation settings, chat template."""
INDEX = "model.safetensors.index.json"


def int8_tensors(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the INT8 checkpoint that has these BF16 ones.

    Args:
        tensors: names and values of a Hugging Face checkpoint, any float dtype.
    Returns:
        For a linear layer's `x_proj.weight` [out, in] itself as int8 codes and `x_proj.weight_scale` float32 [out, 1];
        every other tensor as bf16.
    """
    for name, tensor in tensors:
        master = tensor.to(torch.bfloat16)
        if name.endswith(QUANTIZED_SUFFIX):
            encoded = encode_weight(master, "int8", "channel")
            yield name, encoded.codes
            yield f"{name}_scale", encoded.scales
        else:
            yield name, master


def write_int8_directory(model: Path, target: Path) -> None:
    """Writes the INT8 checkpoint of a BF16 Hugging Face directory, file by file, into the empty directory `target`.

    Raises:
        ModelUnsupportedError: no safetensors files in `model`.
        FileExistsError: `target` exists and is not empty.
    """
    files = snapshot_files(model)
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; an INT8 checkpoint needs a directory of its own")
    weight_map: dict[str, str] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            encoded = dict(int8_tensors((name, opened.get_tensor(name)) for name in names))
        save_file(encoded, target / file.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(encoded, file.name)
    if len(files) > 1:
        (target / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2), encoding="utf-8")
    for path in model.iterdir():
        if path.suffix in COPIED_SUFFIXES and path.name not in (INDEX, "config.json"):
            shutil.copyfile(path, target / path.name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(
        json.dumps(config | {"quantization_config": QUANTIZATION_CONFIG}, indent=2), encoding="utf-8"
    )
