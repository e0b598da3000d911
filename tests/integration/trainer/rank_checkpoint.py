"""Saves a training state, or goes on from one: alone, or as one rank of several under torchrun.

`python rank_checkpoint.py DIRECTORY save`: trains a step, saves to DIRECTORY/training, trains the rest and writes their
figures to DIRECTORY/save.json. `... resume`: the same rest from what was saved, to DIRECTORY/resume.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rank_curves import SAME_BATCH, Case, batches_of, learner_of, model_directory

from ais.runtime.process import die_with_parent
from ais.trainer.learning.learner import Memory
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.ranks.ranks import Ranks, join
from ais.trainer.settings import ComputeSettings, RanksSettings, TrainerSettings

CASE = Case(SAME_BATCH, {"tokens_per_microbatch": 40, "schedule": "linear", "weight_decay": 0.1})


def go_on(directory: Path, ranks: Ranks, resume: bool) -> list[dict[str, Any]]:
    learner, _ = learner_of(CASE, ranks)
    batches = batches_of(CASE)
    if resume:
        memory = TypeAdapter(Memory).validate_json((directory / "memory.json").read_bytes())
        learner.resume(memory, directory / "training")
    else:
        learner.step(batches[0], PhaseClock())
        learner.save(directory / "training").result()
        if ranks.first:
            (directory / "memory.json").write_text(json.dumps(asdict(learner.memory)))
    return [asdict(learner.step(batch, PhaseClock()).figures) for batch in batches[1:]]


def main() -> None:
    die_with_parent()
    model_directory(CASE.model)
    directory, what = Path(sys.argv[1]), sys.argv[2]
    ranks = join(TrainerSettings(compute=ComputeSettings(device="cpu"), ranks=RanksSettings(collective_seconds=60)))
    figures = go_on(directory, ranks, what == "resume")
    if ranks.first:
        (directory / f"{what}.json").write_text(json.dumps(figures))
    ranks.leave()


if __name__ == "__main__":
    main()
