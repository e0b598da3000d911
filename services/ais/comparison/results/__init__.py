"""From the records of cells to measures, statistics, tables, plots and a page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ais.comparison.records import Record
from ais.comparison.results import shown
from ais.comparison.results.page import write_page
from ais.comparison.results.summary import summarize
from ais.comparison.results.tables import write_tables
from ais.runtime.files import replace_file


def publish(directory: Path, records: Sequence[Record], console: Console) -> None:
    """Writes everything that comes of the records into `directory`, and prints the summary. Raises OSError."""
    rows = summarize(records)
    written = write_tables(directory, records, rows)
    tables = shown.tables(rows)
    text = "".join(f"## {heading}\n\n{shown.markdown(own)}\n" for heading, own in tables)
    replace_file(directory / "summary.md", f"{text}{shown.LEGEND}\n")
    if not console.is_terminal:
        console.width = shown.WIDEST
    for heading, own in tables:
        console.print(shown.terminal(heading, own, console))
        console.print()
    console.print(Text(shown.LEGEND, "dim"))
    pages = write_page(directory, tables, records)
    for path in (*written, directory / "summary.md", *pages):
        console.print(Text(str(path)), soft_wrap=True)
    if not find_spec("pyarrow"):
        console.print("steps.parquet needs pyarrow: pip install 'ais-rl[data]'", markup=False)
