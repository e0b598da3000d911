"""The ledger is the committed history, also after a crash between a checkpoint and its line."""

from __future__ import annotations

from pathlib import Path

from ais.trainer.history import ledger
from ais.trainer.history.ledger import Commit


def commit(step: int, incarnation: int = 1) -> Commit:
    return Commit(step, step, f"blake3:{step}", incarnation, (step,), (f"group-{step}",), (f"{step}-0",))


def test_commits_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert ledger.read(tmp_path) == []
    for step in (1, 2):
        ledger.append(tmp_path, commit(step))
    assert ledger.read(tmp_path) == [commit(1), commit(2)]


def test_a_line_cut_short_is_no_commit(tmp_path: Path) -> None:
    ledger.append(tmp_path, commit(1))
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"step": 2, "ver')
    assert ledger.read(tmp_path) == [commit(1)]
    ledger.reconcile(tmp_path, commit(1))
    ledger.append(tmp_path, commit(2))
    assert ledger.read(tmp_path) == [commit(1), commit(2)]


def test_a_checkpoint_whose_line_is_missing_gets_it(tmp_path: Path) -> None:
    ledger.append(tmp_path, commit(1))
    ledger.reconcile(tmp_path, commit(2))
    assert ledger.read(tmp_path) == [commit(1), commit(2)]


def test_commits_after_the_one_resumed_from_are_no_history(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        ledger.append(tmp_path, commit(step))
    ledger.reconcile(tmp_path, commit(1))
    assert ledger.read(tmp_path) == [commit(1)]
    ledger.reconcile(tmp_path, None)
    assert ledger.read(tmp_path) == []
