"""The report of a comparison: one HTML file with everything in it, and each plot as a file of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ais.comparison.records import Record
from ais.comparison.results import shown
from ais.comparison.results.plots import MOST_METHODS, plots_of
from ais.comparison.results.summary import Row
from ais.launcher.report.drawing import render
from ais.launcher.report.parts import STYLE, card, document, table
from ais.runtime.files import replace_file
from ais.runtime.network.redis_url import without_passwords

Table = tuple[str, list[Row]]


def write_page(directory: Path, tables: Sequence[Table], records: Sequence[Record]) -> list[Path]:
    """Writes report.html and plots/*.svg. Gives where the report lies, and the folder of the plots. Raises OSError."""
    plots = directory / "plots"
    plots.mkdir(exist_ok=True)
    for heading, rows in tables:
        for plot in plots_of(heading, rows, records):
            if rendered := render(plot.title, plot.series, plot.scale, plot.name):
                svg = standalone(rendered.svg, rendered.legend)
                replace_file(plots / f"{plot.name}.svg", svg)
    settings = directory / "config.toml"
    text = without_passwords(settings.read_text(encoding="utf-8")) if settings.is_file() else ""
    replace_file(directory / "report.html", page(directory.name, tables, records, text))
    return [directory / "report.html", plots]


def page(name: str, tables: Sequence[Table], records: Sequence[Record], settings: str) -> str:
    """The whole document. `settings` is the text of the comparison's settings."""
    header = f'<h1>{escape(name)}</h1>\n<p class="lead">{escape(_lead(records))}</p>'
    parts = []
    for heading, rows in tables:
        body = [(shown.name_of(row), *(show(row) for show in shown.COLUMNS.values())) for row in rows]
        parts.append(table(heading, ("", *shown.COLUMNS), body))
    parts.append(f'<p class="note">{escape(shown.LEGEND)}</p>')
    for heading, rows in tables:
        cards = "".join(
            card(plot.title, plot.caption, plot.series, plot.name, plot.scale)
            for plot in plots_of(heading, rows, records)
        )
        more = f" The first {MOST_METHODS} methods are drawn." if len(rows) > MOST_METHODS else ""
        parts.append(f'<h2>{escape(heading + more)}</h2><section class="plots">{cards}</section>')
    parts.append(f"<details><summary>Settings</summary><pre>{escape(settings)}</pre></details>")
    return document(f"{name}: comparison", header, "\n".join(parts))


def _lead(records: Sequence[Record]) -> str:
    def listed(name: str) -> str:
        return ", ".join(sorted({str(getattr(record, name)) for record in records}))

    hours = sum(record.seconds for record in records) / 3600
    made = f"Commits: {listed('commit')}. Machine: {listed('machine')}."
    return f"{len(records)} cells, {hours:.1f} hours of training. {made}"


def standalone(svg: str, legend: Sequence[tuple[str, str]]) -> str:
    """A plot of the page as a file of its own: with the page's colours by day and by night, and a legend below it."""
    css = STYLE.read_text(encoding="utf-8")
    colours = css[: css.index("* { box-sizing")].replace(":root", "svg")
    left, top, width, height = map(float, re.search(r'viewBox="([^"]+)"', svg)[1].split())  # type: ignore[index]
    rows = [
        f'<rect x="12" y="{height + 14 * number + 2:g}" width="9" height="9" fill="{colour}"/>'
        f'<text x="26" y="{height + 14 * number + 10:g}" style="font-size: 10px; fill: var(--ink-soft)">{escape(label)}'
        "</text>"
        for number, (colour, label) in enumerate(legend)
    ]
    room = f'viewBox="{left:g} {top:g} {width:g} {height + 14 * len(rows) + 4:g}"'
    svg = re.sub(r'viewBox="[^"]+"', room, svg, count=1)
    style = f"<style>{colours} svg {{ background: var(--paper); font-family: system-ui, sans-serif; }}</style>"
    head, _, rest = svg.partition(">")
    return f"{head}>{style}{rest.removesuffix('</svg>').rstrip().removesuffix('</svg>')}{''.join(rows)}</svg>\n"
