"""Sizes that batches are filled up to."""

from __future__ import annotations

ROWS = 8
"""Rows of a block."""
POSITIONS = 32
"""Positions of a block."""


def whole_blocks(count: int, block: int) -> int:
    """`count` rounded up."""
    return -(-count // block) * block
