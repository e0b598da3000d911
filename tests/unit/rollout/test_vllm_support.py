"""Models that vLLM cannot serve on a machine, told from config.json."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ais.contracts.sampling import Precision
from ais.rollout.engine import ModelUnsupportedError
from ais.rollout.engines.vllm_engine.support import (
    CPU_HEAD_SIZES,
    Installation,
    require_invariance,
    require_support,
    unsupported,
)
from ais.runtime.settings import SettingsError

CPU, GPU = Installation(cpu=True, torchvision=False), Installation(cpu=False, torchvision=True)
DENSE = {"model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16, "head_dim": 128}
DENSE_TEXT = {name: value for name, value in DENSE.items() if name != "model_type"}
EXPERTS = {**DENSE, "model_type": "qwen3_moe", "num_experts": 64}
FP8, BF16, INT8 = Precision(), Precision(weights="bf16"), Precision(weights="int8", activations="int8")


@pytest.mark.parametrize(
    ("config", "precision", "installation", "reason"),
    [
        (DENSE, FP8, CPU, None),
        (DENSE | {"head_dim": 16}, FP8, CPU, "size 16"),
        (DENSE | {"head_dim": 16}, BF16, CPU, "size 16"),
        (DENSE | {"head_dim": 16}, FP8, GPU, None),
        (DENSE | {"head_dim": 32}, FP8, CPU, None),
        (DENSE | {"head_dim": None}, FP8, CPU, None),
        (DENSE | {"head_dim": None, "hidden_size": 768}, FP8, CPU, "size 48"),
        ({"model_type": "x"}, FP8, CPU, None),
        (EXPERTS, FP8, CPU, None),
        (EXPERTS, Precision(granularity="block"), CPU, "64 experts"),
        (EXPERTS, Precision(weights="e5m2"), CPU, "64 experts"),
        (EXPERTS, BF16, CPU, None),
        (EXPERTS, FP8, GPU, None),
        (DENSE | {"num_local_experts": 8}, Precision(activations="bf16"), CPU, "8 experts"),
        (DENSE | {"n_routed_experts": 4, "kv_lora_rank": 512, "head_dim": 7}, BF16, CPU, None),
        ({"model_type": "gemma", "text_config": DENSE | {"head_dim": 48}}, BF16, CPU, "size 48"),
        ({"model_type": "m", "text_config": EXPERTS}, Precision(weights="e5m2"), CPU, "64 experts"),
        ({"model_type": "qwen3_5", "text_config": DENSE}, BF16, CPU, "torchvision"),
        ({"model_type": "qwen3_5_text", **DENSE_TEXT}, BF16, CPU, "torchvision"),
        ({"model_type": "qwen3_5", "text_config": DENSE}, BF16, GPU, None),
        ({"model_type": "qwen3_5_moe", "text_config": EXPERTS}, BF16, Installation(False, False), "torchvision"),
        (DENSE, INT8, CPU, None),
    ],
)
def test_what_cannot_be_served_here_is_told_with_what_can(
    config: dict, precision: Precision, installation: Installation, reason: str | None
) -> None:
    got = unsupported(config, precision, installation)
    assert got is None if reason is None else reason in (got or "")


def test_the_stock_kernel_is_refused_for_experts_alone() -> None:
    assert "cpu_fp8_kernel=bf16_copy" in (unsupported(EXPERTS, FP8, CPU, "stock") or "")
    assert unsupported(EXPERTS, BF16, CPU, "stock") is None
    assert unsupported(EXPERTS, FP8, GPU, "stock") is None
    assert unsupported(DENSE, FP8, CPU, "stock") is None


@pytest.mark.parametrize(
    ("precision", "installation", "reason"),
    [(BF16, CPU, "engine=torch"), (FP8, GPU, "weights=bf16"), (INT8, GPU, "weights=bf16"), (BF16, GPU, None)],
)
def test_batch_invariance_is_refused_where_vllm_has_none_or_computes_something_else_for_it(
    precision: Precision, installation: Installation, reason: str | None
) -> None:
    if reason is None:
        require_invariance(precision, installation)
        return
    with pytest.raises(SettingsError, match=reason):
        require_invariance(precision, installation)


@pytest.mark.parametrize("content", ["{", "\udcff"])
def test_a_config_that_cannot_be_read_is_a_clear_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ModelUnsupportedError, match=r"config\.json cannot be read"):
        require_support(tmp_path, FP8, CPU)


def test_a_model_that_cannot_be_served_is_refused_by_its_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DENSE | {"head_dim": 16}))
    with pytest.raises(ModelUnsupportedError, match="size 16"):
        require_support(tmp_path, BF16, CPU)


@pytest.mark.vllm
def test_the_sizes_of_heads_are_vllms_own() -> None:
    """Asked in a process of its own: what vLLM loads stays out of the process of the other tests."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    asked = (
        "from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend as b; print(b.get_supported_head_sizes())"
    )
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert tuple(ast.literal_eval(answer.splitlines()[-1])) == CPU_HEAD_SIZES


@pytest.mark.vllm
def test_the_torchvision_that_is_lent_can_be_imported_and_nobody_else_finds_it() -> None:
    """By a process of its own, as vLLM's are."""
    looks = (
        "import importlib.util\n"
        "from ais.rollout.engines.vllm_engine.support import lend_torchvision\n"
        "lend_torchvision('qwen3')\n"
        "assert importlib.util.find_spec('torchvision') is None\n"
        "lend_torchvision('qwen3_5_text')\n"
        "from torchvision.transforms.v2 import functional\n"
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import torchvision'], check=True)\n"
    )
    subprocess.run([sys.executable, "-c", looks], check=True, timeout=100)
