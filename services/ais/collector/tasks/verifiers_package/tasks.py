"""The tasks of an environment of the package `verifiers` as prompts: read once, by a Python that has the package."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ais.collector.prompts.prompts import Fits, TaskError
from ais.collector.settings.sources import ColumnSettings, SourceSettings
from ais.collector.tasks.own import OwnRows
from ais.collector.tasks.splits import digest_of
from ais.collector.tasks.tables.prompts import PromptReader
from ais.collector.tasks.tables.rows import Row
from ais.collector.tasks.tables.table import Table, Tables, survey
from ais.collector.tasks.verifiers_package.command import command_of, first_line, variables
from ais.runtime.text import printable

READING_SECONDS = 600.0
"""For all tasks; the package and its datasets may have to be loaded."""
TASK = "task"
"""The key of a prompt's metadata under which the environment's own task is."""


def verifiers_tables(settings: SourceSettings, fits: Fits) -> Tables:
    """Raises TaskError for a Python, a package or an environment that cannot be used."""
    label = settings.effective_label
    rows = rows_in(_said(settings))
    if len({row["key"] for row in rows}) != len(rows):
        raise TaskError(f"the environment {label} has two tasks of one key")
    reader = PromptReader.of(ColumnSettings(answer=""), label, needs_answer=False)
    table = survey(OwnRows(rows, label), reader, f"the environment {label}", fits)
    return Tables(_by_key(table, rows), None, settings.held_out_fraction, settings.too_long)


def rows_in(said: bytes) -> list[Row]:
    """Rows of what the script says, a line for each task. Pure."""
    rows = list[Row]()
    for line in said.splitlines():
        told = json.loads(line)
        rows.append({"key": told["key"], "prompt": told["prompt"], "metadata": {TASK: told["task"]}})
    return rows


def _by_key(table: Table, rows: Sequence[Row]) -> Table:
    """The table with tasks told apart by their keys: many an environment asks the same in all of them, and hides what
    differs."""
    return replace(table, digests=np.array([digest_of(row["key"]) for row in rows], np.uint64))


def _said(settings: SourceSettings) -> bytes:
    environment = settings.environment
    assert environment is not None  # the settings model has checked it
    command = command_of(environment, "tasks")
    try:
        done = subprocess.run(
            command,
            input=first_line(environment, settings.tasks),
            capture_output=True,
            env=dict(variables()),
            timeout=READING_SECONDS,
            check=False,
        )
    except OSError as error:
        raise TaskError(f"environment.interpreter: {command[0]} cannot be started: {error}") from None
    except subprocess.TimeoutExpired:
        raise TaskError(f"the tasks of {environment.taskset} were not read within {READING_SECONDS:g} s") from None
    if done.returncode != 0:
        why = printable(done.stderr.decode(errors="replace").strip().rpartition("\n")[2], 500)
        raise TaskError(
            f"the environment {environment.taskset} cannot be opened by {command[0]}, which needs the package "
            f"verifiers, 0.4: {why or f'exit code {done.returncode}'}"
        )
    return done.stdout
