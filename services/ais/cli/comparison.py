"""The command that compares methods, formats and tasks."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from ais.cli.options import Config, Overrides


def compare(
    config: Config = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells trained side by side; otherwise one a core.", show_default=False)
    ] = None,
    cells: Annotated[bool, typer.Option("--cells", help="Print the cells and which are done, and end.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write the results of the cells that are done.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="Print the effective settings, and end.")] = False,
    overrides: Overrides = None,
) -> None:
    """Compare corrections, number formats and tasks over seeds: every combination is a cell, trained by itself.

    The file is a run's settings, common to all cells, and a section [compare] that says what varies:

        ais compare -c benchmarks/compare/small.toml

    A cell is done once: killed at any moment, the same command goes on with those that are left, and more seeds or
    methods in the file add cells to those that are there. Everything is kept in runs/NAME: cells.jsonl, a line for
    each cell done, and what comes of them: summary.csv, summary.md, cells.csv, steps.csv, steps.parquet, report.html.

        ais compare -c FILE --cells
        ais compare -c FILE --settings
        ais compare -c FILE --set compare.seeds=5 --workers 2
        ais compare -c FILE --set 'compare.methods=["none", {method = "tis", level = "sequence"}, "ais"]'
        ais compare -c FILE --report
    """
    from ais.comparison.settings import load_comparison
    from ais.settings import to_toml

    comparison = load_comparison(config, overrides or ())
    if settings:
        print(to_toml(comparison), end="")
        return
    from ais.comparison.command import compare_settings, list_cells

    if cells:
        sys.exit(list_cells(comparison))
    again = shlex.join(["ais", "compare", *sys.argv[2:]])
    sys.exit(compare_settings(comparison, again, workers, report))
