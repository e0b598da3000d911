"""The table of gradients at frozen policies in a document, made from what `ais bench collapse --frozen` recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.tiny_grpo.report import Record

BLOCK = re.compile(r"(<!-- frozen -->\n).*?(?=<!-- end -->)", re.DOTALL)
METHODS = {"none": "`none`", "tis_token": "`tis`, token", "ais": "`ais`", "centred": "centred"}


def filled(text: str, records: Sequence[Record]) -> str:
    """`text` with the tables of its blocks made again."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{table(records)}\n", text)


def table(records: Sequence[Record]) -> str:
    """A line for each policy: both rewards, and of each method cosine, length and agreement of batches."""
    shown = [method for method in METHODS if any(method in record for record in records)]
    head = ["policy", "trainer", "p", "q", "BF16 rollouts", *(METHODS[method] for method in shown)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for record in records:
        cells = [record["policy"], record["compute"], f"{record['p']:.3f}", f"{record['q']:.3f}"]
        cells.append(f"1, 1, {record['bf16_batches']:.2f}")
        for method in shown:
            one = record.get(method)
            cells.append(f"{one['cosine']:.2f}, {one['length']:.2f}, {one['batches']:.2f}" if one else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
