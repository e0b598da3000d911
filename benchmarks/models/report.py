"""The matrix of models and routing replay as tables, and in docs/models.md:  python -m benchmarks.models.report"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.models import routing
from benchmarks.models.measure import Cell

FILE = Path(__file__).parents[1] / "results" / "models.jsonl"
DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
BLOCK = re.compile(r"(<!-- models: (?P<engine>\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
ROUTING = FILE.with_name("routing.jsonl")
ROUTING_BLOCK = re.compile(r"(<!-- routing -->\n).*?(?=<!-- end -->)", re.DOTALL)
FORMATS = ("bf16", "fp8", "int8")
HEAD = ("family", *(f"{one}: mean \\|log-ratio\\|, k3" for one in ("BF16", "FP8", "INT8")), "A, B, A again", "delta")


def cells(file: Path = FILE) -> list[Cell]:
    """The recorded ones, the newest of each."""
    names = {field.name for field in fields(Cell)}
    found: dict[tuple[str, str, str], Cell] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        record: dict[str, Any] = json.loads(line)
        cell = Cell(**{name: value for name, value in record.items() if name in names})
        found[cell.family, cell.engine, cell.format] = cell
    return list(found.values())


def rows(found: Sequence[Cell], engine: str) -> list[tuple[str, ...]]:
    """One for each family of an engine."""
    of_engine = [cell for cell in found if cell.engine == engine]
    return [_row(family, of_engine) for family in dict.fromkeys(cell.family for cell in of_engine)]


def _row(family: str, found: Sequence[Cell]) -> tuple[str, ...]:
    formats = {cell.format: cell for cell in found if cell.family == family}
    served = [cell for cell in formats.values() if not cell.refused]
    return (
        family,
        *(_mismatch(formats.get(one)) for one in FORMATS),
        ("the same" if all(cell.restored for cell in served) else "**differs**") if served else "",
        f"{100 * served[0].delta_share:.1f}%" if served else "",
    )


def _mismatch(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return "refused" if cell.refused else f"{cell.log_ratio:.3g}, {cell.k3:.2g}"


def reasons(found: Sequence[Cell], engine: str) -> list[str]:
    """Why what was refused was, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for cell in found:
        if cell.engine == engine and cell.refused:
            by_reason.setdefault(_told(cell.refused), []).append(f"{cell.family} in {cell.format.upper()}")
    return [f"- {', '.join(who)}: {why}" for why, who in by_reason.items()]


def _told(reason: str) -> str:
    """Without what differs from run to run."""
    return re.sub(r"/tmp/\S+?(?=[ :]|$)", "MODEL", reason)


def filled(document: str, found: Sequence[Cell]) -> str:
    """`document` with each engine's table and reasons made anew."""

    def replace(block: re.Match[str]) -> str:
        engine = block["engine"]
        lines = [HEAD, ("---",) * len(HEAD), *rows(found, engine)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        why = "\n".join(reasons(found, engine))
        return f"{block[1]}\n{table}\n\n" + (f"{why}\n\n" if why else "")

    return BLOCK.sub(replace, document)


def routing_filled(document: str, found: Sequence[routing.Replay]) -> str:
    """`document` with the table of routing replay made anew."""
    lines = [routing.HEAD, ("---",) * len(routing.HEAD), *routing.rows(found)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return ROUTING_BLOCK.sub(lambda block: f"{block[1]}\n{table}\n\n", document)


if __name__ == "__main__":
    text = filled(DOCUMENT.read_text(encoding="utf-8"), cells())
    DOCUMENT.write_text(routing_filled(text, routing.replays(ROUTING)), encoding="utf-8")
