"""The matrix of models and routing replay as tables, and in docs/models.md:  python -m benchmarks.models.report"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.models import routing
from benchmarks.models.measure import OF_ENGINE, TWO_RANKS, Cell

FILE = Path(__file__).parents[1] / "results" / "models.jsonl"
DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
BLOCK = re.compile(r"(<!-- models: (?P<engine>\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
NAMES = {
    "bf16": "BF16",
    "fp8": "FP8",
    "int8": "INT8",
    "kv_one": "E4M3 cache at scale 1",
    "kv_token": "E4M3 cache",
    "kv_calibrated": "E4M3 cache, calibrated",
    TWO_RANKS: "versions of two ranks",
}
ROUTING = FILE.with_name("routing.jsonl")
ROUTING_BLOCK = re.compile(r"(<!-- routing -->\n).*?(?=<!-- end -->)", re.DOTALL)


def cells(file: Path = FILE) -> list[Cell]:
    """The recorded ones, the newest of each."""
    names = {field.name for field in fields(Cell)}
    found: dict[tuple[str, str, str], Cell] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        record: dict[str, Any] = json.loads(line)
        cell = Cell(**{name: value for name, value in record.items() if name in names})
        found[cell.family, cell.engine, cell.format] = cell
    return list(found.values())


def head(engine: str) -> tuple[str, ...]:
    """Columns of an engine's table."""
    return ("family", *(NAMES[one] for one in _served(engine)), "A, B, A again", "two ranks", "delta")


def _served(engine: str) -> list[str]:
    """Formats whose mismatch is told: that of two ranks' versions is BF16's."""
    return [one for one in OF_ENGINE[engine] if one != TWO_RANKS]


def rows(found: Sequence[Cell], engine: str) -> list[tuple[str, ...]]:
    """One for each family of an engine."""
    of_engine = [cell for cell in found if cell.engine == engine]
    return [_row(family, engine, of_engine) for family in dict.fromkeys(cell.family for cell in of_engine)]


def _row(family: str, engine: str, found: Sequence[Cell]) -> tuple[str, ...]:
    formats = {cell.format: cell for cell in found if cell.family == family}
    served = [cell for cell in formats.values() if not cell.refused and cell.format != TWO_RANKS]
    return (
        family,
        *(_mismatch(formats.get(one)) for one in _served(engine)),
        _same(all(cell.restored for cell in served)) if served else "",
        _ranks(formats.get(TWO_RANKS)),
        f"{100 * served[0].delta_share:.1f}%" if served else "",
    )


def _same(holds: bool) -> str:
    return "the same" if holds else "**differs**"


def _ranks(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.refused:
        return "refused"
    return f"{_same(bool(cell.ranks_alike))}, {100 * (cell.ranks_apart or 0.0):.1f}%, {_same(cell.restored)}"


def _mismatch(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return "refused" if cell.refused else f"{cell.log_ratio:.3g}, {cell.k3:.2g}"


def reasons(found: Sequence[Cell], engine: str) -> list[str]:
    """Why what was refused was, each reason once."""
    of_engine = [cell for cell in found if cell.engine == engine]
    families = {cell.family for cell in of_engine}
    by_reason: dict[str, dict[str, list[str]]] = {}
    for cell in of_engine:
        if cell.refused:
            by_reason.setdefault(_told(cell.refused), {}).setdefault(NAMES[cell.format], []).append(cell.family)
    return [
        f"- {'; '.join(_who(refused, len(families), name) for name, refused in formats.items())}: {why}"
        for why, formats in by_reason.items()
    ]


def _who(refused: Sequence[str], families: int, name: str) -> str:
    every = len(refused) == families > 2
    return f"{'all of them' if every else ', '.join(refused)} in {name}"


def _told(reason: str) -> str:
    """Without what differs from run to run."""
    return re.sub(r"/tmp/\S+?(?=[ :]|$)", "MODEL", reason)


def filled(document: str, found: Sequence[Cell]) -> str:
    """`document` with each engine's table and reasons made anew."""

    def replace(block: re.Match[str]) -> str:
        engine = block["engine"]
        lines = [head(engine), ("---",) * len(head(engine)), *rows(found, engine)]
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
