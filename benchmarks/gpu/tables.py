"""Makes the tables of a GPU in docs/benchmarks.md from what was recorded:  python -m benchmarks.gpu.tables

A table stands between `<!-- gpu: NAME -->` and `<!-- end -->`; NAME is one of TABLES.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "gpu"
DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BLOCK = re.compile(r"(<!-- gpu: (?P<name>\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
FORMATS = ("bf16", "e4m3", "int8")

Values = Mapping[str, Any]


def filled(document: str) -> str:
    """`document` with every table made anew."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block['name']]()}\n", document)


@cache
def points(session: str, part: str) -> dict[str, Values]:
    """What a recorded session measured, by name."""
    recorded = json.loads((RESULTS / f"{session}.json").read_text(encoding="utf-8"))
    return {point["name"]: point["values"] for point in recorded["points"] if point["part"] == part}


def _rollout() -> str:
    fused, plain = points("fused", "rollout"), points("second", "rollout")
    cases = dict.fromkeys(name.rsplit(", ", 1)[0] for name in plain)
    lines = ["| Qwen3 shape | kernels | BF16 | E4M3 | INT8 | E4M3 to BF16 |", "|---|---|---|---|---|---|"]
    for case in cases:
        for label, source in (("plain", plain), ("fused", fused)):
            speeds = [source.get(f"{case}, {name}", {}).get("tokens_per_second") for name in FORMATS]
            if any(speeds):
                ratio = f"{speeds[1] / speeds[0]:.2f}" if speeds[0] and speeds[1] else "–"
                shown = " | ".join(f"{speed:,.0f}" if speed else "–" for speed in speeds)
                lines.append(f"| {case} | {label} | {shown} | {ratio} |")
    return "\n".join(lines) + "\n"


def _correction() -> str:
    lines = ["| batch | what | ms | peak MB | host waits |", "|---|---|---|---|---|"]
    for name, values in points("first", "correction").items():
        batch, what = name.split(", ", 1)
        numbers = f"{values['milliseconds']:.2f} | {values['peak_megabytes']:.0f} | {values['host_waits']}"
        lines.append(f"| {batch} | {what} | {numbers} |")
    return "\n".join(lines) + "\n"


def _trainer() -> str:
    (values,) = (point for name, point in points("second", "trainer").items() if name != "version")
    names = ("step", "forward", "backward", "correction", "optimizer", "probe", "write_version")
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in names)} | peak GB |", "|---" * (len(names) + 1) + "|"]
    shown = " | ".join(f"{values[f'{name}_seconds']:.3f}" for name in names)
    return "\n".join([*lines, f"| {shown} | {values['peak_gigabytes']:.1f} |"]) + "\n"


TABLES: Mapping[str, Callable[[], str]] = {"rollout": _rollout, "correction": _correction, "trainer": _trainer}


def main() -> None:
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
