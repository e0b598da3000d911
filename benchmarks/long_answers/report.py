"""The table of the chain in a document, made from what `ais bench lengths` recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

BLOCK = re.compile(r"(<!-- lengths -->\n).*?(?=<!-- end -->)", re.DOTALL)
LENGTHS = (16, 512, 4096, 16384)
METHODS = {
    "none": "`none`",
    "ais": "`ais`, the default",
    "handover": "`handover`",
    "tis_sequence": "`tis`, sequence",
    "tis_token": "`tis`, token",
    "centred": "uncorrected, centred",
}
KINDS = ("random", "adverse")


def filled(text: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """`text` with the tables of its blocks made again."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{table(figures)}\n", text)


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Bias relative to the gradient, and cosine with it, by method, kind of mismatch and length."""
    head = "| method | mismatch | " + " | ".join(f"{length:,} tokens" for length in LENGTHS) + " |"
    lines = [head, "|" + "---|" * (2 + len(LENGTHS))]
    for method, label in METHODS.items():
        for kind in KINDS:
            cells = [_cell(figures, f"{kind}_{method}_{length}") for length in LENGTHS]
            lines.append(f"| {label} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(figures: Mapping[str, Mapping[str, Any]], at: str) -> str:
    bias, cosine = (figures[f"{at}_{key}"]["value"] for key in ("bias", "cosine"))
    return f"{float(f'{bias:.2g}'):g} ({cosine:.2f})"
