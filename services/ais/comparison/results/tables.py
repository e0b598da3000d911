"""Tables as files: every step of every cell, every cell, and the summary. CSV always, Parquet where pyarrow is."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ais.comparison.records import SECONDS, STEP_FIGURES, Record
from ais.comparison.results.measures import measure
from ais.comparison.results.statistics import Paired
from ais.comparison.results.summary import COMPARED, MEASURES, Row
from ais.runtime.files import replace_file

PLACE = ("task", "format", "method", "staleness", "seed")
STEP_COLUMNS = (*PLACE, "step", *STEP_FIGURES, *SECONDS, "p", "q")
TEXT = ("task", "format", "method")
WHOLE = ("staleness", "seed", "step")

Value = str | int | float | None


def write_tables(directory: Path, records: Sequence[Record], rows: Sequence[Row]) -> list[Path]:
    """Writes steps.csv, cells.csv, summary.csv and, where pyarrow is installed, steps.parquet. Gives what was written.

    Raises OSError.
    """
    written = [
        _write_csv(directory / "steps.csv", STEP_COLUMNS, step_rows(records)),
        _write_csv(directory / "cells.csv", (*PLACE, *MEASURES, "seconds", "commit"), map(_cell, records)),
        _write_csv(directory / "summary.csv", list(_summary(rows[0])), map(_summary, rows)),
    ]
    if find_spec("pyarrow"):
        written.append(_write_parquet(directory / "steps.parquet", records))
    return written


def step_rows(records: Sequence[Record]) -> Iterator[dict[str, Value]]:
    """One row a step of a cell, and one for step 0, which has only its evaluation."""
    for record in records:
        place = asdict(record.place)
        figures = {name: dict(zip(record.steps["step"], record.steps.get(name, ()), strict=False)) for name in
                   (*STEP_FIGURES, *SECONDS)}  # fmt: skip
        scores = {name: dict(zip(record.evaluations["step"], record.evaluations[name], strict=True)) for name in "pq"}
        steps = {step for step in (*record.steps["step"], *record.evaluations["step"]) if step is not None}
        for step in sorted(steps):
            yield {
                **place,
                "step": int(step),
                **{name: column.get(step) for name, column in (figures | scores).items()},
            }


def _cell(record: Record) -> dict[str, Value]:
    measures = asdict(measure(record))
    return {**asdict(record.place), **measures, "seconds": record.seconds, "commit": record.commit}


def _summary(row: Row) -> dict[str, Value]:
    found: dict[str, Value] = {
        "task": row.task,
        "format": row.format,
        "method": row.method,
        "staleness": row.staleness,
        "seeds": len(row.seeds),
    }
    for name, estimate in row.estimates.items():
        found |= {name: estimate.mean, f"{name}_sd": estimate.deviation, f"{name}_95": estimate.half_width}
    found["p_fall_worst"] = row.worst_fall
    for baseline, tests in (("bf16", row.against_bf16), ("none", row.against_uncorrected)):
        for name in COMPARED:
            found |= _test(f"{name}_less_{baseline}", tests[name])
    return found


def _test(name: str, test: Paired) -> Mapping[str, Value]:
    difference = test.difference
    return {name: difference.mean, f"{name}_95": difference.half_width, f"{name}_p": test.p_value}


def _write_csv(path: Path, columns: Sequence[str], rows: Iterator[dict[str, Value]]) -> Path:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _written(value) for name, value in row.items()} for row in rows)
    replace_file(path, buffer.getvalue())
    return path


def _written(value: Value) -> Value:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return value


def _write_parquet(path: Path, records: Sequence[Record]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(name: str) -> Any:
        return pa.string() if name in TEXT else pa.int64() if name in WHOLE else pa.float64()

    schema = pa.schema([(name, kind(name)) for name in STEP_COLUMNS])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(step_rows(records)), schema), sink)
    replace_file(path, sink.getvalue().to_pybytes())
    return path
