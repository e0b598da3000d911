"""A run killed in every way comes to the same end, to the bit, as one that was left alone.

Its prompts are a mixture of problems that are made and of a Parquet file of six chats, gone through more than twice.
Groups that teach nothing are drawn again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from ais.collector.prompts.prompts import Split
from ais.collector.prompts.reserve import position_of
from ais.collector.tasks.task import open_task
from ais.settings import load
from tests.support.runs import EXAMPLES, POLICY, Run, launched, started

STEPS, GROUPS, SAMPLES, ROWS, REDRAWS = 9, 4, 4, 6, 2
# One group at a time, so that each is computed in a batch of the same shape, and comes out the same to the bit.
SETTINGS = f"""
[run]
model = "{POLICY}"
max_staleness = 0

[collector]
queue_factor = 1.0

[collector.task]
name = "mixture"

[[collector.task.sources]]
digits = 16

[[collector.task.sources]]
name = "parquet"
label = "few"
file = "few.parquet"
held_out_file = "other.parquet"
columns = {{ prompt = "messages", answer = "solution.digits" }}

[collector.prompt]
chat_template = "{EXAMPLES}/own_data/chat.jinja"

[collector.sampling]
max_new_tokens = 20

[collector.dynamic_sampling]
redraws = {REDRAWS}

[rollout]
slots = {SAMPLES}
max_model_len = 64

[trainer.checkpoints]
every_steps = 3
"""
SMALL = {
    "run.steps": STEPS,
    "run.groups_per_batch": GROUPS,
    "run.samples_per_group": SAMPLES,
    "trainer.samples_per_step": GROUPS * SAMPLES,
}
OF_THE_OCCASION = (
    *("time", "step_seconds", "phase_seconds", "tokens_per_second", "queue_depth", "replicas", "incarnation"),
    "group_ids",  # they count attempts
)
"""What a step's line says of when and how, and not of what was trained."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    pa = pytest.importorskip("pyarrow", reason="needs the extra data")
    from pyarrow import parquet

    lines = (EXAMPLES / "own_data" / "problems.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for name, some in (("few", rows[:ROWS]), ("other", rows[ROWS : ROWS + 2])):
        parquet.write_table(pa.Table.from_pylist(some), tmp_path / f"{name}.parquet", row_group_size=4)
    file = tmp_path / "config.toml"
    file.write_text(SETTINGS, "utf-8")
    return file


def trained(run: Run) -> list[dict[str, Any]]:
    return [{key: line[key] for key in line.keys() - set(OF_THE_OCCASION)} for line in run.lines("steps")]


def committed(run: Run) -> list[tuple[Any, ...]]:
    return [(line["step"], line["version"], line["digest"], line["ordinals"]) for line in run.lines("ledger")]


def responses(run: Run) -> list[dict[str, Any]]:
    return sorted(run.lines("samples"), key=lambda line: (line["step"], line["ordinal"], line["response"]))


def kill(process: psutil.Process | None) -> None:
    assert process is not None
    process.kill()


def has_uncommitted_steps(run: Run, at_least: int) -> bool:
    """Whether a trainer that is killed now loses steps."""
    steps, ledger = run.lines("steps"), run.lines("ledger")
    return bool(ledger) and len(steps) >= at_least and len(steps) > ledger[-1]["step"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_is_trained_is_the_same_after_kills_of_everything(config: Path, tmp_path: Path) -> None:
    calm_place, killed_place = tmp_path / "calm", tmp_path / "killed"
    for place in (calm_place, killed_place):
        place.mkdir()
    with started(config, calm_place, SMALL) as calm:
        calm.ended_well()
    with started(config, killed_place, SMALL) as run:
        run.until(lambda: run.figures("collector").get("ais_collector_redrawn_groups_total"))
        kill(run.service("ais.collector"))
        run.until(lambda: has_uncommitted_steps(run, at_least=4))
        kill(run.service("ais.trainer"))
        run.until(lambda: any(step["incarnation"] == 2 for step in run.lines("steps")))
        run.until(lambda: run.figures("rollout-0").get("ais_rollout_running_sequences"))
        kill(run.service("ais.rollout"))
        run.until(lambda: has_uncommitted_steps(run, at_least=7))
        for process in (psutil.Process(run.process.pid), *psutil.Process(run.process.pid).children(recursive=True)):
            process.kill()
    with launched(run.directory, "resume", str(run.directory)) as resumed:
        resumed.ended_well()
    assert resumed.lines("steps")[-1]["incarnation"] >= 3
    assert responses(resumed) == responses(calm)
    assert trained(resumed) == trained(calm)
    assert committed(resumed) == committed(calm)

    task = open_task(load(config).collector.task, 0, Split.TRAIN)
    assert task.prompt(STEPS * GROUPS - 1).prompt_id
    drawn = {line["ordinal"]: line["answer"] for line in calm.lines("samples")}
    assert sorted(drawn) == list(range(STEPS * GROUPS))
    for ordinal, answer in drawn.items():
        assert answer in {task.prompt(position_of(ordinal, redraw)).answer for redraw in range(REDRAWS + 1)}
    assert sum(task.prompt(ordinal).source == "few" for ordinal in drawn) > 2 * ROWS
    assert sum(step["redrawn_sequences"] for step in calm.lines("steps")) > 0
