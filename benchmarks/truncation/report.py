"""The table of the figures, for a terminal and for the document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("sampling", "mean ratio among kept", "mean ratio over all", "tokens kept", "bytes a token more")


def rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One for each sampling that was tried."""
    names = [name.removesuffix("_kept") for name in figures if name.endswith("_kept")]

    def row(name: str) -> tuple[str, ...]:
        parts = (("ratio", 4), ("ratio_over_all", 4), ("kept", 2), ("bytes", 1))
        label, _, limit = name.rpartition("_")
        written = f"`{label} = {limit}`" if label else name
        return written, *(f"{figures[f'{name}_{part}']['value']:.{digits}f}" for part, digits in parts)

    return [row(name) for name in names]


def lines(figures: Mapping[str, Any]) -> list[str]:
    """As Markdown."""
    return [f"| {' | '.join(row)} |" for row in rows(figures)]
