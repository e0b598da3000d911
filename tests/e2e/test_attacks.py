"""A live run under everything that a faulty or strange peer can do to it: it goes on, and its history stays whole."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from attacks import ATTACKS, target
from test_faults import GROUPS_PER_BATCH, ais_run, steps, wait_for

SETTINGS = ("run.steps=100000", "launcher.evaluation_prompts=0", "trainer.checkpoints.every_steps=5")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_under_attack_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    with ais_run(tmp_path, *SETTINGS) as process:
        wait_for(lambda: len(steps(tmp_path)) >= 2, process)
        for name, attack in ATTACKS.items():
            before = len(steps(tmp_path))
            print(f"step {before}: {name}")
            asyncio.run(against(tmp_path / "demo", attack))
            try:
                wait_for(lambda before=before: len(steps(tmp_path)) >= before + 2, process, seconds=60)
            except AssertionError as error:
                raise AssertionError(f"after the attack {name!r} the run does not go on: {error}") from error
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, output
    lines = steps(tmp_path)
    assert [ordinal for line in lines for ordinal in line["ordinals"]] == list(range(len(lines) * GROUPS_PER_BATCH))
    groups = [group for line in lines for group in line["group_ids"]]
    assert len(set(groups)) == len(groups)
    assert all(line["log_ratio_abs_mean"] < 0.2 and not line["skipped_updates"] for line in lines), "a lie was trained"


async def against(directory: Path, attack: object) -> None:
    async with target(directory, "demo") as run:
        await attack(run)  # type: ignore[operator]
