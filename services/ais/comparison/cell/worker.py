"""A worker process: trains the cells that it is told of, one after another, on one core.

    python -m ais.comparison.cell.worker FILE

reads the comparison's settings from FILE, then from its standard input a number a line: which of its cells to train.
Writes JSON, a line for each step, {"step", "reward"}, and at the end of a cell {"record"} or {"error"}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch

from ais.collector.prompts.prompts import TaskError
from ais.comparison.cell.training import train
from ais.comparison.grid import Cell, cells_of
from ais.comparison.machine import commit, machine
from ais.comparison.records import Record
from ais.comparison.settings import Comparison
from ais.rollout.engine import ModelUnsupportedError, SamplingFailedError
from ais.runtime.logging import configure_logging
from ais.runtime.process import UnavailableError
from ais.runtime.reading import read_settings


def main() -> None:
    torch.set_num_threads(1)
    comparison = read_settings(Comparison, Path(sys.argv[1]), environment={})
    configure_logging("compare", comparison.logging)
    cells = cells_of(comparison)
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        try:
            record = done(cells[int(line)], answers)
        except (UnavailableError, TaskError, ModelUnsupportedError, SamplingFailedError) as error:
            say(answers, error=str(error))
        else:
            say(answers, record=record.line())


def done(cell: Cell, answers: TextIO) -> Record:
    """Trains a cell and says each step. Raises UnavailableError and what else `train` does."""
    begun = time.process_time()
    course = asyncio.run(train(cell, lambda step, reward: say(answers, step=step, reward=reward)))
    seconds = time.process_time() - begun
    return Record(cell.place, cell.identity, commit(), machine(), course.steps, course.evaluations, seconds)


def say(answers: TextIO, **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
