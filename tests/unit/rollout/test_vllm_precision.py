"""Which precisions vLLM may be asked for, on which host."""

from __future__ import annotations

import pytest

from ais.contracts.sampling import Precision
from ais.rollout.engines.vllm_engine.arguments import really_computed
from ais.rollout.engines.vllm_engine.precision import Host, mode_of
from ais.runtime.settings import SettingsError

CPU = Host("cpu")
FP8 = Precision()
BLOCKS = Precision(granularity="block")
INT8 = Precision(weights="int8", activations="int8")
BF16 = Precision(weights="bf16")


@pytest.mark.parametrize(
    ("precision", "host", "quantization"),
    [
        (FP8, CPU, "fp8_per_channel"),
        (FP8, Host("cuda", capability=(8, 9)), "fp8_per_channel"),
        (BLOCKS, Host("cpu", amx=True), "fp8_per_block"),
        (BLOCKS, Host("cuda", capability=(9, 0)), "fp8_per_block"),
        (BF16, CPU, None),
        (INT8, CPU, None),
        (INT8, Host("cuda", capability=(8, 0)), None),
        (Precision(weights="bf16", kv_cache="e4m3", kv_scale="one"), CPU, None),
    ],
    ids=str,
)
def test_what_a_host_computes_is_asked_for(precision: Precision, host: Host, quantization: str | None) -> None:
    mode = mode_of(precision, host)
    assert mode.quantization == quantization
    assert mode.snapshot_format == ("int8" if precision.weights == "int8" else "bf16")


@pytest.mark.parametrize(
    ("precision", "host", "named"),
    [
        (BLOCKS, CPU, "granularity=channel"),
        (INT8, Host("cpu", vnni=False), "a CPU without AMX, VNNI runs weights=bf16; weights=e4m3"),
        (FP8, Host("cuda", capability=(8, 0)), "weights=int8"),  # Ampere would compute BF16 activations instead
        (Precision(activations="bf16"), CPU, "activations=e4m3"),
        (Precision(weights="e2m1"), Host("cuda", capability=(10, 0)), "weights=bf16"),
        (Precision(weights="e5m2", activations="e5m2"), CPU, "weights=e4m3"),
        (Precision(head=True), CPU, "output head"),
        (Precision(scales="least_squares"), CPU, "by the maximum"),
        (Precision(kv_cache="e4m3"), Host("cuda", capability=(8, 6)), "kv_cache bf16"),
        (Precision(kv_cache="e4m3", kv_scale="one"), Host("cpu", avx512=False), "kv_cache bf16"),
        (Precision(kv_cache="e4m3"), CPU, "kv_scale=token: vLLM's cache is not scaled.*with kv_scale one"),
    ],
    ids=str,
)
def test_what_it_cannot_compute_is_refused_with_what_it_can(precision: Precision, host: Host, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        mode_of(precision, host)


def test_the_descriptor_says_what_is_computed_not_what_has_no_effect() -> None:
    """With BF16 weights nothing is quantised, whatever the settings say of activations."""
    computed = really_computed(Precision(weights="bf16", activations="e4m3", kv_cache="e5m2"))
    assert (computed.activations, computed.kv_cache) == ("bf16", "e5m2")
    assert really_computed(FP8) == FP8
    assert really_computed(Precision(weights="bf16", float32_head=True)).float32_head
