"""Defines the number formats: their largest value, and how a float is rounded to their grid."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ais_core.errors import SettingError

Format = Literal["bf16", "e4m3", "e5m2", "e2m1", "int8"]

FLOAT32_MANTISSA_BITS = 23
FLOAT32_EXPONENT = 0x7F800000


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A format that values are stored in after division by a scale."""

    name: Format
    storage: torch.dtype
    """The dtype that stores one code. e2m1 stores twice its value in an int8, because all its values are halves."""
    largest: float
    """The largest finite value; a scale maps the absolute maximum of its group here."""
    mantissa_bits: int = 0
    """Explicit mantissa bits of a floating-point format."""
    smallest_normal: float = 1.0
    """Smallest normal number of a floating-point format; below it the grid is even, with the step found there."""

    @property
    def scaled(self) -> bool:
        """Whether values are scaled into the format. bf16 has float32's range and is not."""
        return self.name != "bf16"

    def round(self, scaled: Tensor) -> Tensor:
        """Round to the nearest representable value, ties to even.

        For the small floating-point formats this equals torch's cast there and back, in a fraction of its time on a
        CPU. With p the power of two at or below |x|, the grid's step near x is p / 2^mantissa_bits, and adding and
        taking away 1.5 * 2^23 steps leaves x rounded to a whole number of them, because float32 itself has no finer
        step up there.

        Args:
            scaled: float32, of magnitude at most `largest` up to the rounding of the division that scaled it.
        Returns:
            float32 values on the format's grid.
        """
        if self.name == "bf16":
            return scaled.to(self.storage).float()
        if self.name == "int8":
            return scaled.round()
        power = scaled.view(torch.int32).bitwise_and(FLOAT32_EXPONENT).view(torch.float32)
        shift = power.clamp_(min=self.smallest_normal).mul_(1.5 * 2.0 ** (FLOAT32_MANTISSA_BITS - self.mantissa_bits))
        return (scaled + shift).sub_(shift)

    def code(self, rounded: Tensor) -> Tensor:
        """The stored codes of values already on the grid."""
        return (rounded * 2).to(self.storage) if self.name == "e2m1" else rounded.to(self.storage)

    def value(self, codes: Tensor) -> Tensor:
        """The float32 values that codes stand for, before their scale."""
        values = codes.to(torch.float32)
        return values / 2 if self.name == "e2m1" else values


FORMATS: dict[str, NumberFormat] = {
    "bf16": NumberFormat("bf16", torch.bfloat16, torch.finfo(torch.bfloat16).max),
    "e4m3": NumberFormat("e4m3", torch.float8_e4m3fn, 448.0, mantissa_bits=3, smallest_normal=2.0**-6),
    "e5m2": NumberFormat("e5m2", torch.float8_e5m2, 57344.0, mantissa_bits=2, smallest_normal=2.0**-14),
    "e2m1": NumberFormat("e2m1", torch.int8, 6.0, mantissa_bits=1, smallest_normal=1.0),
    "int8": NumberFormat("int8", torch.int8, 127.0),
}
"""OCP OFP8 1.0's E4M3 (without infinities) and E5M2, OCP microscaling MX 1.0's E2M1, symmetric int8."""


def number_format(name: str) -> NumberFormat:
    """The format of that name. Raises SettingError naming those there are."""
    try:
        return FORMATS[name]
    except KeyError:
        raise SettingError(f"unknown number format {name!r}; known: {', '.join(FORMATS)}") from None
