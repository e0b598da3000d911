"""The summary for people: a table in the terminal, and the same in Markdown for a document."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ais.comparison.results.statistics import Estimate, Paired
from ais.comparison.results.summary import Row

COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "seeds": lambda row: str(len(row.seeds)),
    "p": lambda row: interval(row.estimates["p_late"]),
    "q": lambda row: interval(row.estimates["q_late"]),
    "p less BF16": lambda row: "–" if row.is_reference else difference(row.against_bf16["p_late"]),
    "p less none": lambda row: "–" if row.method == "none" else difference(row.against_uncorrected["p_late"]),
    "q less none": lambda row: "–" if row.method == "none" else difference(row.against_uncorrected["q_late"]),
    "worst fall": lambda row: short(row.worst_fall),
    "at 20%": lambda row: short(row.estimates["early_20"].mean),
    "at 40%": lambda row: short(row.estimates["early_40"].mean),
    "alpha": lambda row: short(row.estimates["alpha"].mean),
    "D": lambda row: short(row.estimates["mismatch"].mean),
    "ms a step": lambda row: milliseconds(row.estimates["training_seconds"].mean),
}
WIDEST = 400
"""Columns of the screen that the whole table may take where nobody says how wide the screen is."""
LEGEND = (
    "p, q: held-out reward of the BF16 policy and of the policy that samples, mean of the last three evaluations, with "
    "the 95% interval over seeds (Student's t). less: mean difference over the seeds that both have, with the p-value "
    "of the paired t-test. worst fall: of p after a peak, in any seed. at 20%, 40%: reward of the batches then. ms a "
    "step: training, processor time."
)


def title(row: Row) -> str:
    """What a row's table is about."""
    return f"{row.task}, {row.format}" + (f", staleness {row.staleness}" if row.staleness else "")


def tables(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by table: one for each task, staleness and format; the BF16 reference stands in each."""

    def key(row: Row) -> tuple[str, int, str]:
        return row.task, row.staleness, row.format

    order = list(dict.fromkeys(map(key, rows)))
    grouped = {one: list(group) for one, group in groupby(sorted(rows, key=lambda row: order.index(key(row))), key)}
    references = {(row.task, row.staleness): row for row in rows if row.is_reference}
    found = []
    for (task, staleness, _format), own in grouped.items():
        reference = references.get((task, staleness))
        if own == [reference] and len(order) > 1:
            continue
        shown = own if reference is None or reference in own else [reference, *own]
        found.append((title(own[0]), shown))
    return found


def terminal(heading: str, rows: Sequence[Row], console: Console) -> Table:
    """For the terminal: as many of the columns as it has room for. A file or a pipe gets them all."""
    names = list(COLUMNS)
    while (table := _table(heading, rows, names)) and names:
        if Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum <= console.width:
            break
        names.pop()
    return table


def _table(heading: str, rows: Sequence[Row], names: Sequence[str]) -> Table:
    table = Table("method", title=heading, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(name_of(row), *(COLUMNS[name](row) for name in names))
    return table


def markdown(rows: Sequence[Row]) -> str:
    """For a document."""
    lines = [f"| method | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        name = name_of(row) if row.is_reference else f"`{row.method}`"
        lines.append(f"| {name} | {' | '.join(show(row) for show in COLUMNS.values())} |")
    return "\n".join(lines) + "\n"


def interval(estimate: Estimate) -> str:
    """.854 ± .020"""
    if math.isnan(estimate.half_width):
        return short(estimate.mean)
    return f"{short(estimate.mean)} ± {short(estimate.half_width)}"


def difference(test: Paired) -> str:
    """-.010 (p .04); the difference alone for a single pair, – for none."""
    if not test.difference.count:
        return "–"
    chance = "" if math.isnan(test.p_value) else f" ({chance_of(test.p_value)})"
    sign = "+" if test.difference.mean > 0 else ""
    return f"{sign}{short(test.difference.mean)}{chance}"


def chance_of(p_value: float) -> str:
    """p .037, p<.001"""
    return "p<.001" if p_value < 0.001 else f"p {short(p_value)}"


def short(value: float) -> str:
    """Three decimals, without the zero before the point; – for NaN."""
    if math.isnan(value):
        return "–"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def milliseconds(seconds: float) -> str:
    return "–" if math.isnan(seconds) else f"{1000 * seconds:.0f}"


def name_of(row: Row) -> str:
    """The row's name in tables and plots."""
    return "BF16 rollouts" if row.is_reference else row.method
