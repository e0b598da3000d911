"""Our settings in vLLM's terms: its engine arguments, and the environment it must find when it is imported."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from ais.contracts.sampling import Precision
from ais.rollout.engines.vllm_engine.kept import MOST_LOGPROBS
from ais.rollout.engines.vllm_engine.model import ServedModel
from ais.rollout.engines.vllm_engine.precision import KV_CACHE_DTYPES, Host, LinearMode
from ais.rollout.settings import RolloutSettings

CPU_BLOCK_SIZE = 32
"""Tokens of one block of the cache, and so the unit in which samples share their prompt: the smallest that vLLM's CPU
kernels are fast with. (Its default there is 128, longer than many prompts.)"""
CPU_STEP_TOKENS = 4096
"""Tokens of one step, prompts included, if the longest sequence is not longer: vLLM's own default on a CPU."""
CPU_FP8_KERNEL = "ais_cpu_fp8_kernel"
"""Key in vLLM's `additional_config` under which workers find `rollout.vllm.cpu_fp8_kernel`."""
TRANSFER_BACKEND = "ais_snapshot"
"""The name our weight-transfer engine is registered by."""
WORKER_EXTENSION = "ais.rollout.engines.vllm_engine.worker_extension.WorkerExtension"


def prepare_environment(settings: RolloutSettings) -> None:
    """Sets what vLLM reads when it is imported, in this process and in those it starts. Call it before that.

    What the user has set already stays, but for what settings of ours say and what the engine relies on.
    """
    environment = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # The model is a directory here; nothing is to be looked up elsewhere.
        "HF_HUB_OFFLINE": "1",
        # By default every replica on a machine would bind its first thread to the same core.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    # This process has threads, and a fork of it could inherit a held lock; nor would the watchdog find it.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if settings.batch_invariant:
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings.vllm.cpu_cache_gib)


def engine_arguments(
    checkpoint: Path,
    model: ServedModel,
    settings: RolloutSettings,
    mode: LinearMode,
    host: Host,
    routing_replay: bool = False,
) -> dict[str, Any]:
    """Keyword arguments of vLLM's `AsyncEngineArgs`. `checkpoint` is the model in the mode's snapshot format."""
    vllm = settings.vllm
    compiled = host.device == "cuda" if vllm.compile is None else vllm.compile
    arguments: dict[str, Any] = {
        "model": str(checkpoint),
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # a request says how to sample; the model's own defaults must not get in
        "dtype": "bfloat16",
        "quantization": mode.quantization,
        "kv_cache_dtype": KV_CACHE_DTYPES[settings.precision.kv_cache],
        "logprobs_mode": "processed_logprobs",  # of the distribution really sampled
        "max_logprobs": MOST_LOGPROBS,
        "max_model_len": model.max_model_len,
        "max_num_seqs": settings.slots,
        "enable_prefix_caching": True,
        "enforce_eager": not compiled,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "data_parallel_size": vllm.data_parallel_size,
        "worker_extension_cls": WORKER_EXTENSION,
        "weight_transfer_config": {"backend": TRANSFER_BACKEND},
        "additional_config": {CPU_FP8_KERNEL: vllm.cpu_fp8_kernel},
        "seed": secrets.randbits(31),  # else two replicas would sample alike
    }
    if host.device == "cpu":
        arguments["block_size"] = CPU_BLOCK_SIZE
        # A prompt computed in parts makes vLLM turn back the random numbers of a seeded request, which CPU generators
        # cannot do: the engine would die of it.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(model.max_model_len, CPU_STEP_TOKENS)
        if model.recurrent:  # its state is cached between parts of a prompt alone
            arguments["enable_prefix_caching"] = False
    else:
        arguments["gpu_memory_utilization"] = vllm.memory_fraction
    if routing_replay:
        if host.device == "cuda":
            arguments["enable_return_routed_experts"] = True
        else:  # what is found in the cache is not computed, and so not recorded
            arguments["enable_prefix_caching"] = False
    if settings.precision.float32_head:
        arguments["hf_overrides"] = {"head_dtype": "float32"}
    return arguments


def really_computed(precision: Precision) -> Precision:
    """The descriptor of what runs: a setting that has no effect is not repeated in it."""
    if precision.weights != "bf16":
        return precision
    kept = precision.model_dump(include={"kv_cache", "kv_scale", "float32_head"})
    return Precision(weights="bf16", activations="bf16", **kept)
