"""A border that reads bytes of others, as something that can be fed with bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

LONGEST_REFUSAL = 100_000
"""Characters of an error. A border that repeats more of what came than this fills logs."""


@dataclass(frozen=True)
class Target:
    """One border."""

    read: Callable[[bytes], object]
    """Reads one input as the service does. It may raise `refusals`, and nothing else."""
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    """Inputs to begin with: good ones, from which mutations get deep."""

    def takes(self, content: bytes) -> bool:
        """Whether the border takes the input; False: it refuses it. Raises what the border must not."""
        try:
            self.read(content)
        except self.refusals as refusal:
            if len(said := str(refusal)) > LONGEST_REFUSAL:
                raise AssertionError(f"a refusal of {len(said)} characters: {said[:100]}") from refusal
            return False
        return True


Targets = Mapping[str, Target]


def fields_of(content: bytes) -> dict[bytes, bytes]:
    """An input as the fields of an entry in Redis: NAME=VALUE, separated by the byte 0x1e."""
    parts = (part.partition(b"=") for part in content.split(b"\x1e"))
    return {name: value for name, _, value in parts}


def content_of(fields: Mapping[bytes, bytes]) -> bytes:
    """The input that `fields_of` reads so."""
    return b"\x1e".join(name + b"=" + value for name, value in fields.items())
