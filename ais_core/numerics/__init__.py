"""Provides number formats and quantisers that compute as a low-precision rollout engine does.

Rounding here is real: codes and scales are made, and what is returned are the values those codes stand for. The product
of two FP8 numbers is exact in FP32, so rounding both operands and multiplying in FP32 is an FP8 matrix product up to
the order of accumulation.
"""

from ais_core.numerics.formats import FORMATS, Format, NumberFormat, number_format
from ais_core.numerics.quantizers import (
    Granularity,
    Quantized,
    Scales,
    encode_activation,
    encode_weight,
    quantize_activation,
    quantize_scaled,
    quantize_weight,
)
from ais_core.numerics.straight_through import straight_through_activation, straight_through_weight

__all__ = [
    "FORMATS",
    "Format",
    "Granularity",
    "NumberFormat",
    "Quantized",
    "Scales",
    "encode_activation",
    "encode_weight",
    "number_format",
    "quantize_activation",
    "quantize_scaled",
    "quantize_weight",
    "straight_through_activation",
    "straight_through_weight",
]
