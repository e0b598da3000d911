"""The example of agents outside the collector, run small by `ais run`, which starts one itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from ais.launcher.processes.commands import free_port
from tests.support.runs import EXAMPLES, started

AGENT = "ais.collector.agent"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_agent_of_the_runs_own_plays_training_and_evaluation_and_is_started_again_when_it_dies(
    tmp_path: Path,
) -> None:
    settings = {
        "run.samples_per_group": 4,
        "run.steps": 3,
        "run.groups_per_batch": 2,
        "launcher.evaluation_prompts": 2,
        "launcher.evaluation_checkpoints": 2,
        "collector.agents_port": free_port(),
    }
    with started(EXAMPLES / "agents" / "config.toml", tmp_path, settings) as run:
        run.until(lambda: run.lines("steps"))
        first = run.service(AGENT)
        assert first is not None
        first.kill()
        run.ended_well()
    assert "agent-0 was ended by SIGKILL; starting it again" in run.output
    assert sum(step["updates"] for step in run.lines("steps")) == 3
    turns = [sample["components"]["turns"] for sample in run.lines("samples")]
    assert len(turns) == 3 * 2 * 4
    assert all(1 <= one <= 5 for one in turns)
    evaluated = run.lines("evaluations")
    assert {(line["precision"], line["step"]) for line in evaluated} == {
        (precision, step) for precision in ("bf16", "e4m3/channel x e4m3") for step in (0, 3)
    }
