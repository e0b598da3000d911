"""`ais resume` notices that the data of a run has changed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ais.launcher.directory.run_directory import RunDirectory
from ais.runtime.exits import EXIT_SETTINGS
from ais.settings import load, save

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "sort16" / "config.toml"
ROWS = [{"prompt": f"{number}=", "answer": f"{number}"} for number in range(8)]

Write = Callable[[Path, list[dict[str, Any]]], None]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra data")
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path)


def write_dataset(path: Path, rows: list[dict[str, Any]]) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra data")
    datasets.Dataset.from_list(rows).save_to_disk(str(path))


def ais(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ais.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


def begun(directory: Path, *task: str) -> RunDirectory:
    """The directory of a run with these settings, as `ais run` leaves it before its first step."""
    run = RunDirectory(directory / "demo")
    run.path.mkdir()
    save(load(EXAMPLE, [*task, f"run.directory={directory}", "run.name=demo"]), run.config)
    looked = [sys.executable, "-m", "ais.collector.check", "-c", str(run.config), "--data", str(run.data)]
    subprocess.run(looked, check=True, timeout=60)
    return run


@pytest.mark.parametrize(
    ("name", "file", "write", "changed"),
    [
        ("jsonl", "train.jsonl", write_jsonl, "train.jsonl"),
        ("parquet", "train.parquet", write_parquet, "train.parquet"),
        ("huggingface", "saved", write_dataset, "data-00000-of-00001.arrow"),
    ],
)
def test_other_rows_are_refused_with_the_file_and_what_to_do(
    tmp_path: Path, name: str, file: str, write: Write, changed: str
) -> None:
    path = tmp_path / file
    write(path, ROWS)
    run = begun(tmp_path, f"collector.task.name={name}", f"collector.task.file={path}")
    before = {one: one.read_bytes() for one in run.path.iterdir()}
    write(path, [*ROWS[1:], {"prompt": "9=", "answer": "9"}])
    done = ais("resume", str(run.path))
    assert done.returncode == EXIT_SETTINGS, done.stderr
    assert "collector.task.file: " in done.stderr
    assert f"{changed} has another content" in done.stderr
    assert "Put the data back as it was" in done.stderr
    assert {one: one.read_bytes() for one in run.path.iterdir() if one in before} == before


def test_a_file_more_that_a_pattern_of_a_mixtures_source_matches_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "part-1.jsonl", ROWS)
    sources = f'[{{name = "jsonl", file = "{tmp_path}/part-*.jsonl"}}, {{digits = 4}}]'
    run = begun(tmp_path, "collector.task.name=mixture", f"collector.task.sources={sources}")
    write_jsonl(tmp_path / "part-2.jsonl", [{"prompt": "77=", "answer": "77"}])
    done = ais("resume", str(run.path))
    assert done.returncode == EXIT_SETTINGS, done.stderr
    assert f"collector.task.sources.0.file: {tmp_path}/part-2.jsonl was not there" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_goes_on_with_its_data_where_that_was_moved_and_not_with_other_data(tmp_path: Path) -> None:
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    write_jsonl(train, ROWS)
    write_jsonl(held_out, [{"prompt": "88=", "answer": "88"}])
    small = ("run.steps=1", "run.groups_per_batch=2", "run.name=small", f"run.directory={tmp_path}")
    small += ("rollout.replicas=1", "launcher.evaluation_prompts=0", "collector.task.name=jsonl")
    small += (f"collector.task.file={train}", f"collector.task.held_out_file={held_out}")
    ran = ais("run", "-c", str(EXAMPLE), *(part for setting in small for part in ("--set", setting)))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    steps = tmp_path / "small" / "steps.jsonl"

    held_out.write_text('{"prompt": "99=", "answer": "99"}\n')
    refused = ais("resume", str(tmp_path / "small"), "--set", "run.steps=2")
    assert refused.returncode == EXIT_SETTINGS, refused.stderr
    assert f"collector.task.held_out_file: {held_out} has another content" in refused.stderr
    assert len(steps.read_text().splitlines()) == 1

    write_jsonl(held_out, [{"prompt": "88=", "answer": "88"}])
    moved = train.rename(tmp_path / "moved.jsonl")
    resumed = ais("resume", str(tmp_path / "small"), "--set", "run.steps=2", "--set", f"collector.task.file={moved}")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert len(steps.read_text().splitlines()) == 2
    assert str(moved) in (tmp_path / "small" / "data.json").read_text()
