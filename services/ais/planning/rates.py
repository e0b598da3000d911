"""How fast a GPU decodes and trains, from a roofline whose two unknowns were solved for from two records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ais.planning import measured
from ais.planning.shapes import MODELS, Shape


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet, dense rates."""

    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second."""
    bf16: float
    """Operations a second."""
    fp8: float


GPUS: Mapping[str, Gpu] = {
    "h100": Gpu(80e9, 3.35e12, 989e12, 1979e12),
    "h200": Gpu(141e9, 4.8e12, 989e12, 1979e12),
}
MEASURED_GPU = GPUS["h200"]


def roofline_seconds(shape: Shape, gpu: Gpu, batch: float, context: float, fp8: bool = True) -> float:
    """Shortest time of a decode step: weights and caches are read once, and every product is computed.

    The two are added: a step's products wait for what they read. The input embedding is looked up, not read.
    """
    read = shape.served_bytes(fp8) - 2 * shape.embedding + batch * context * shape.cache_bytes
    return read / gpu.bandwidth + batch * shape.forward_flops(context) / (gpu.fp8 if fp8 else gpu.bf16)


@dataclass(frozen=True)
class Decoding:
    """A decode step takes `factor` times the roofline, and `layer_seconds` more for each layer."""

    factor: float
    layer_seconds: float

    def seconds(self, shape: Shape, gpu: Gpu, batch: float, context: float, gpus: int = 1) -> float:
        """Time of one step in E4M3. `gpus`: tensor parallel, as if its communication took no time."""
        whole = roofline_seconds(shape, gpu, batch, context)
        return self.factor * whole / gpus + self.layer_seconds * shape.layers


def fitted_decoding() -> Decoding:
    """By the records of 8B at 256 sequences and 4B at 128. The one of 0.6B is left to be predicted."""
    points = (("8b", 256, measured.DECODE_8B), ("4b", 128, measured.DECODE_4B))
    (x1, l1, t1), (x2, l2, t2) = (
        (
            roofline_seconds(MODELS[name], MEASURED_GPU, batch, measured.DECODE_CONTEXT),
            MODELS[name].layers,
            record.value / 1e3,
        )
        for name, batch, record in points
    )
    determinant = x1 * l2 - x2 * l1
    return Decoding((t1 * l2 - t2 * l1) / determinant, (x1 * t2 - x2 * t1) / determinant)


def measured_utilisation() -> float:
    """Share of the GPU's BF16 rate that training 0.6B reached, forward and backward."""
    flops = MODELS["0.6b"].training_flops(measured.STEP_LENGTH) * measured.STEP_TOKENS
    return flops / (measured.FORWARD.value + measured.BACKWARD.value) / MEASURED_GPU.bf16


def measured_overhead() -> float:
    """A step's time by that of its forward and backward passes."""
    return measured.STEP.value / (measured.FORWARD.value + measured.BACKWARD.value)


def activation_bytes() -> float:
    """Bytes of activations for each token, layer and unit of the hidden width in a pass without checkpointing: what the
    peak of the recorded step was above 18 bytes a parameter."""
    shape = MODELS["0.6b"]
    above = measured.PEAK.value * 1e9 - 18 * shape.parameters
    return above / (measured.STEP_TOKENS / measured.STEP_PASSES) / shape.layers / shape.hidden
