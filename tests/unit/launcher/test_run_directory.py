"""A run's directory and the files in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ais.launcher.directory.run_directory import RunDirectory, checkpoints_of, fresh_run_directory, spread
from ais.launcher.directory.steps import StepLog, read_records
from ais.runtime.process import UnavailableError
from ais.runtime.security.keyring import TOKENS
from ais.runtime.security.tokens import make_tokens


def test_a_run_never_overwrites_an_earlier_one(tmp_path: Path) -> None:
    names = [fresh_run_directory(tmp_path / "runs", "demo").name for _ in range(3)]
    assert names == ["demo", "demo-2", "demo-3"]


def test_a_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for parent, said in (
        (tmp_path / "file", "is not a directory"),
        (tmp_path / "file" / "runs", "cannot be made: Not a directory"),
        (Path("/proc/runs"), "cannot be made"),
        (tmp_path / ("long" * 100), "cannot be made: File name too long"),
    ):
        with pytest.raises(UnavailableError, match=said):
            fresh_run_directory(parent, "demo")


def test_checkpoints_come_by_step_and_unfinished_ones_do_not(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for name in ("step-000100", "step-000025", ".step-000125.writing", "step-1000000"):
        (directory.checkpoints / name).mkdir(parents=True)
    assert [path.name for path in checkpoints_of(directory)] == ["step-000025", "step-000100", "step-1000000"]


@pytest.mark.parametrize("most", [2, 3, 5, 100])
def test_a_spread_keeps_the_first_and_the_last(most: int) -> None:
    paths = [Path(str(number)) for number in range(11)]
    chosen = spread(paths, most)
    assert len(chosen) == len(set(chosen)) == min(most, 11)
    assert (chosen[0], chosen[-1]) == (paths[0], paths[-1])


def test_a_step_counts_when_its_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    log = StepLog(path)
    assert list(log.new_records()) == []
    with path.open("w") as file:
        file.write('{"step": 1}\n{"step": 2, "phase_seconds": {"wai')
        file.flush()
        assert list(log.new_records()) == [{"step": 1}]
        file.write('t": 0.5}}\n')
    assert list(log.new_records()) == [{"step": 2, "phase_seconds.wait": 0.5}]
    assert list(log.new_records()) == []
    assert log.count == len(read_records(path)) == 2


def test_a_line_that_is_not_an_object_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('nonsense\n[1]\n{"step": 3}\n')
    assert read_records(path) == [json.loads('{"step": 3}')]


def test_a_directory_with_nothing_but_tokens_is_no_earlier_run(tmp_path: Path) -> None:
    make_tokens(tmp_path / "demo" / TOKENS)
    assert fresh_run_directory(tmp_path, "demo").name == "demo"
    (tmp_path / "demo/config.toml").touch()
    assert fresh_run_directory(tmp_path, "demo").name == "demo-2"
