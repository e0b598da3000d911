"""A task may be the user's own Python: a table of rows, or rows made on demand."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from ais.collector.prompts.prompts import Split, TaskError, TaskSource
from ais.collector.settings import TaskSettings
from ais.collector.tasks import own
from ais.collector.tasks.task import open_task

MODULE = """
class Sums:
    def __init__(self, most):
        self.most = most

    def draw(self, generator):
        a, b = generator.randrange(self.most), generator.randrange(self.most)
        return {"prompt": f"{a}+{b}=", "answer": a + b}


class Wrong:
    def draw(self, generator):
        return {"prompt": f"{generator.random()}"}


def table(rows):
    return [{"prompt": f"q{i}", "answer": i, "id": f"row {i}"} for i in range(rows)]


def fails():
    raise OSError("no disk")


def holes():
    return [{"prompt": "q", "answer": 1}, None]


def nothing():
    return 3
"""


def settings(directory: Path, function: str, **others: Any) -> TaskSettings:
    (directory / "own_problems.py").write_text(MODULE)
    return TaskSettings(name="python", function=f"own_problems:{function}", directory=directory, **others)


def questions(task: TaskSource, count: int) -> list[str]:
    return [task.prompt(ordinal).text for ordinal in range(count)]


def test_a_table_of_the_users_is_gone_through_by_epochs_and_split(tmp_path: Path) -> None:
    task = settings(tmp_path, "table", parameters={"rows": 40})
    train, held_out = (open_task(task, 0, split) for split in (Split.TRAIN, Split.HELD_OUT))
    assert train.distinct is not None
    assert held_out.distinct is not None
    asked = questions(train, train.distinct) + questions(held_out, held_out.distinct)
    assert sorted(asked) == sorted(f"q{i}" for i in range(40))
    assert train.prompt(0).prompt_id == f"row {train.prompt(0).answer}"
    assert train.name == "own_problems:table"


def test_rows_made_on_demand_depend_on_seed_and_ordinal_and_their_splits_share_none(tmp_path: Path) -> None:
    task = settings(tmp_path, "Sums", parameters={"most": 30}, held_out_fraction=0.3)
    train, held_out = (open_task(task, 0, split) for split in (Split.TRAIN, Split.HELD_OUT))
    assert questions(train, 50) == [open_task(task, 0, Split.TRAIN).prompt(i).text for i in range(50)]
    assert questions(train, 50) != questions(open_task(task, 1, Split.TRAIN), 50)
    assert not set(questions(train, 1500)) & set(questions(held_out, 500))


def test_rows_that_do_not_fit_are_made_again(tmp_path: Path) -> None:
    task = settings(tmp_path, "Sums", parameters={"most": 30})
    short = open_task(task, 0, Split.TRAIN, fits=lambda question: len(question) <= 4)
    assert all(len(text) <= 4 for text in questions(short, 50))
    with pytest.raises(TaskError, match="too few different prompts"):
        open_task(task, 0, Split.TRAIN, fits=lambda _: False)


def test_an_entry_point_of_an_installed_package_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed_problems.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint(name="sums", value="installed_problems:Sums", group=own.GROUP)
    monkeypatch.setattr(own, "entry_points", lambda group: [entry])
    task = open_task(TaskSettings(name="python", function="sums", parameters={"most": 9}), 0, Split.TRAIN)
    assert task.name == "sums"
    assert task.prompt(0).text.endswith("=")
    with pytest.raises(TaskError, match=r"has a task none .*: sums\)"):
        open_task(TaskSettings(name="python", function="none"), 0, Split.TRAIN)


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        ("fails", "own_problems:fails cannot be made: OSError: no disk"),
        ("missing", "cannot be made: AttributeError"),
        ("nothing", "gives a int: expected a table, .* or an object with draw"),
        ("Sums", "cannot be made: TypeError: .*most"),
        ("holes", "own_problems:holes, row 2: expected a dictionary, got NoneType"),
        ("Wrong", "own_problems:Wrong, the row made for ordinal 0: answer: the key is missing"),
    ],
)
def test_what_goes_wrong_in_the_users_code_is_said(tmp_path: Path, function: str, complaint: str) -> None:
    with pytest.raises(TaskError, match=complaint):
        open_task(settings(tmp_path, function), 0, Split.TRAIN)


def test_a_module_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot be made: ModuleNotFoundError: No module named 'nowhere'"):
        open_task(TaskSettings(name="python", function="nowhere:f", directory=tmp_path), 0, Split.TRAIN)
