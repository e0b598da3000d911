"""Parquet files and Hugging Face datasets give the rows that are in them, and say which one is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ais.collector.prompts.prompts import Prompt, Split, TaskError, TaskSource
from ais.collector.settings import TaskSettings
from ais.collector.tasks.tables import parquet
from ais.collector.tasks.task import open_task

pa = pytest.importorskip("pyarrow", reason="needs the extra data")
pytest.importorskip("datasets", reason="needs the extra data")

ROWS: list[dict[str, Any]] = [
    {
        "chat": [{"role": "user", "content": f"q{i} ä"}],
        "extra": {"answer": i, "level": None if i % 2 else "easy"},
        "not read": b"x" * 100,
    }
    for i in range(50)
]
COLUMNS = {"prompt": "chat", "answer": "extra.answer", "metadata": {"level": "extra.level"}}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    from pyarrow import parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    return path


def both(**task: Any) -> tuple[TaskSource, TaskSource]:
    settings = TaskSettings.model_validate({"columns": COLUMNS, **task})
    return open_task(settings, 0, Split.TRAIN), open_task(settings, 0, Split.HELD_OUT)


def everything(task: TaskSource) -> list[Prompt]:
    return [task.prompt(ordinal) for ordinal in range(task.distinct or 0)]


def answers(*tasks: TaskSource) -> list[int]:
    return sorted(int(prompt.answer) for task in tasks for prompt in everything(task))


def test_parquet_files_give_their_rows_whatever_their_row_groups(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ROWS[:20])
    write_parquet(tmp_path / "b.parquet", ROWS[20:])
    train, held_out = both(name="parquet", file=tmp_path / "*.parquet")
    assert answers(train, held_out) == list(range(50))
    prompt = next(prompt for task in (train, held_out) for prompt in everything(task) if prompt.answer == "21")
    assert prompt.messages == ({"role": "user", "content": "q21 ä"},)
    assert (prompt.text, prompt.metadata, prompt.prompt_id) == ("q21 ä", {"level": None}, "b-2")


def test_what_was_unpacked_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(parquet, "BATCH", 3)
    train, held_out = both(name="parquet", file=write_parquet(tmp_path / "a.parquet", ROWS))
    assert list(temporary.iterdir()) == []
    assert answers(train, held_out) == list(range(50))


def test_a_bad_row_of_a_parquet_file_is_named_with_file_row_and_column(tmp_path: Path) -> None:
    rows = [*ROWS[:9], {**ROWS[9], "extra": {"answer": None, "level": "easy"}}]
    file = write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(
        TaskError, match=r"a\.parquet, row 10: extra\.answer: expected text or a finite number, got null"
    ):
        both(name="parquet", file=file)


def test_a_column_that_is_missing_and_a_file_that_is_no_parquet_are_named(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", ROWS)
    with pytest.raises(
        TaskError, match=r"a\.parquet: question: there is no such column; there is chat, extra, not read"
    ):
        both(name="parquet", file=file, columns={"prompt": "question"})
    other = write_parquet(tmp_path / "b.parquet", [{"chat": "text", "extra": {"answer": 1, "level": ""}}])
    with pytest.raises(TaskError, match=r"b\.parquet (has other columns than|cannot be read)"):
        both(name="parquet", file=(file, other))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(TaskError, match=r"c\.parquet cannot be read as Parquet"):
        both(name="parquet", file=tmp_path / "c.parquet")


@pytest.mark.parametrize("several", [False, True])
def test_a_dataset_that_was_saved_to_disk_is_read_by_split(tmp_path: Path, several: bool) -> None:
    import datasets

    saved = datasets.Dataset.from_list(ROWS[:40])
    other = datasets.Dataset.from_list(ROWS[40:])
    (datasets.DatasetDict(train=saved, test=other) if several else saved).save_to_disk(tmp_path / "saved")
    more = {"held_out_split": "test"} if several else {}
    train, held_out = both(name="huggingface", file=tmp_path / "saved", **more)
    assert answers(train, held_out) == list(range(50 if several else 40))
    assert train.name == "saved"
    if several:
        assert answers(held_out) == list(range(40, 50))


def test_a_directory_of_data_files_is_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train.parquet", ROWS[:30])
    write_parquet(tmp_path / "data" / "test.parquet", ROWS[30:])
    train, held_out = both(name="huggingface", file=tmp_path / "data", held_out_split="test")
    assert (answers(train), answers(held_out)) == (list(range(30)), list(range(30, 50)))


def test_csv_files_are_read_as_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text('prompt,answer\n"one, two\nthree",1\nfour,2\nfive,3\n')
    (tmp_path / "data" / "test.csv").write_text("prompt,answer\nsix,4\n")
    train, held_out = both(name="huggingface", file=tmp_path / "data", held_out_split="test", columns={})
    assert answers(train) == [1, 2, 3]
    assert answers(held_out) == [4]
    assert "one, two\nthree" in [prompt.text for prompt in everything(train)]


def test_a_dataset_a_split_or_a_column_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TaskError, match=r"the dataset nobody/nothing, split train, cannot be loaded: .*save_to_disk"):
        both(name="huggingface", dataset="nobody/nothing")
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    with pytest.raises(TaskError, match="has no split dev; there is train"):
        both(name="huggingface", file=tmp_path / "saved", split="dev")
    with pytest.raises(TaskError, match="saved, split train: answer: there is no such column; there is chat"):
        both(name="huggingface", file=tmp_path / "saved", columns={"prompt": "chat"})
