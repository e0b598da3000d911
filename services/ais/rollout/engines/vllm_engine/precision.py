"""Our precision in vLLM's terms, checked against the host: what it cannot really compute is refused at start.

| precision | vLLM | CPU | CUDA |
|---|---|---|---|
| bf16 | no quantisation | yes | yes |
| e4m3 / channel x e4m3 | `fp8_per_channel`, online; activations per token | yes | from compute capability 8.9 |
| e4m3 / block x e4m3 | `fp8_per_block`, online; activations per token and 128 inputs | needs AMX | from 9.0 |
| int8 / channel x int8 | compressed-tensors W8A8, quantised by us; activations per token | needs VNNI | from 7.5 |
| KV cache e4m3, e5m2, kv_scale one | `kv_cache_dtype` | needs AVX-512 | from 8.9 |

Below those capabilities vLLM would silently compute something else, such as BF16 activations with FP8 weights. On an
x86 CPU without VNNI instructions oneDNN adds pairs of 8-bit products in 16 bits, which overflow: sums are 18% off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ais.contracts.sampling import Precision
from ais.runtime.settings import SettingsError

SnapshotFormat = Literal["bf16", "int8"]


@dataclass(frozen=True)
class Host:
    """What the machine has."""

    device: Literal["cpu", "cuda"]
    amx: bool = False
    """CPU: matrix tiles."""
    avx512: bool = True
    """CPU: without it vLLM's attention reads no FP8 cache."""
    vnni: bool = True
    """CPU: sums of 8-bit products in 32 bits."""
    capability: tuple[int, int] = (0, 0)
    """CUDA: compute capability."""

    @property
    def caches_fp8(self) -> bool:
        return self.avx512 or self.amx if self.device == "cpu" else self.capability >= (8, 9)

    def __str__(self) -> str:
        if self.device == "cpu":
            without = [
                name for name, there in (("AMX", self.amx), ("AVX-512", self.avx512), ("VNNI", self.vnni)) if not there
            ]
            return f"a CPU without {', '.join(without)}" if without else "a CPU with AMX"
        return "a GPU of compute capability {}.{}".format(*self.capability)


@dataclass(frozen=True)
class LinearMode:
    """One way vLLM computes linear layers."""

    weights: str
    granularity: str
    activations: str
    quantization: str | None
    """vLLM's `quantization`; None where the checkpoint itself says it."""
    snapshot_format: SnapshotFormat
    """What the checkpoint that vLLM loads, and every later version, is brought to."""
    weight_dtype: str
    """Dtype of the layers' weights once loaded, as torch writes it."""

    def matches(self, precision: Precision) -> bool:
        if self.weights == "bf16":
            return precision.weights == "bf16"
        wanted = (precision.weights, precision.granularity, precision.activations)
        return wanted == (self.weights, self.granularity, self.activations)

    def runs_on(self, host: Host) -> bool:
        match self.quantization, host.device:
            case "fp8_per_block", "cpu":
                return host.amx
            case "fp8_per_block", "cuda":
                return host.capability >= (9, 0)
            case "fp8_per_channel", "cuda":
                return host.capability >= (8, 9)
            case None, "cuda":
                return self.snapshot_format == "bf16" or host.capability >= (7, 5)
            case None, "cpu":
                return self.snapshot_format == "bf16" or host.vnni
            case _:
                return True

    def __str__(self) -> str:
        if self.weights == "bf16":
            return "weights=bf16"
        return f"weights={self.weights} granularity={self.granularity} activations={self.activations}"


MODES = (
    LinearMode("bf16", "", "", None, "bf16", "torch.bfloat16"),
    LinearMode("e4m3", "channel", "e4m3", "fp8_per_channel", "bf16", "torch.float8_e4m3fn"),
    LinearMode("e4m3", "block", "e4m3", "fp8_per_block", "bf16", "torch.float8_e4m3fn"),
    LinearMode("int8", "channel", "int8", None, "int8", "torch.int8"),
)
KV_CACHE_DTYPES = {"bf16": "auto", "e4m3": "fp8_e4m3", "e5m2": "fp8_e5m2"}
"""vLLM's `kv_cache_dtype` of each of our formats."""


def mode_of(precision: Precision, host: Host) -> LinearMode:
    """How vLLM computes `precision` on `host`. Raises SettingsError that says what the host can run instead."""
    runnable = [mode for mode in MODES if mode.runs_on(host)]
    caches = [name for name in KV_CACHE_DTYPES if name == "bf16" or host.caches_fp8]
    scale = " (with kv_scale one)" if host.caches_fp8 else ""
    can = f"vLLM on {host} runs {'; '.join(map(str, runnable))}; with kv_cache {', '.join(caches)}{scale}"
    if precision.head:
        raise SettingsError(f"rollout.precision.head=true: vLLM leaves the output head in BF16. {can}")
    if precision.weights != "bf16" and precision.scales != "maximum":
        raise SettingsError(f"rollout.precision.scales={precision.scales}: vLLM scales by the maximum. {can}")
    if precision.kv_cache not in caches:
        raise SettingsError(f"rollout.precision.kv_cache={precision.kv_cache} cannot run here. {can}")
    if precision.kv_cache != "bf16" and precision.kv_scale != "one":
        raise SettingsError(f"rollout.precision.kv_scale={precision.kv_scale}: vLLM's cache is not scaled. {can}")
    for mode in runnable:
        if mode.matches(precision):
            return mode
    raise SettingsError(f"rollout.precision {precision} cannot run here. {can}")


def this_host() -> Host:
    """The machine this process runs on, as vLLM sees it."""
    import torch
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        has = torch.cpu.get_capabilities()
        vnni = has["architecture"] != "x86_64" or has["avx512_vnni"] or has["avx_vnni"]
        return Host("cpu", amx=has.get("amx_tile", False), avx512=has.get("avx512_f", False), vnni=vnni)
    capability = current_platform.get_device_capability()
    return Host("cuda", capability=(capability.major, capability.minor))
