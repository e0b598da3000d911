"""Records on the disk, and what is made of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from ais.comparison.grid import Place
from ais.comparison.records import Record, Records, read_records
from ais.comparison.results import publish
from ais.comparison.results.measures import measure
from ais.comparison.results.summary import summarize
from ais.runtime.process import UnavailableError


def record(
    method: str = "ais",
    seed: int = 0,
    p: Sequence[float] = (0.1, 0.5, 0.4),
    form: str = "e5m2",
    alpha: float | None = 0.5,
) -> Record:
    """A cell of ten steps, scored at 0, 5 and 10, its reward rising by a tenth a step."""
    place = Place("sort16", form, method, 0, seed)
    steps: dict[str, list[float | None]] = {
        "step": list(range(1, 11)),
        "reward_mean": [step / 10 for step in range(1, 11)],
        "alpha": [alpha] * 10,
        "training_seconds": [0.25] * 10,
    }
    evaluations: dict[str, list[float | None]] = {"step": [0, 5, 10], "p": list(p), "q": [value / 2 for value in p]}
    return Record(place, {"run.steps": 10}, "abc", "a machine", steps, evaluations, seconds=3.0)


def test_a_record_is_read_as_it_was_written_and_figures_keep_five_digits(tmp_path: Path) -> None:
    records = Records(tmp_path / "cells.jsonl")
    records.append(record(p=(0.123456789, math.nan, 1 / 3)))
    (found,) = records.read()
    assert found.place == record().place
    assert found.evaluations["p"] == [0.12346, None, 0.33333]
    assert found.settings == {"run.steps": 10}


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_line_that_a_kill_cut_short_is_nobodys_and_makes_room_for_the_next(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "cells.jsonl"
    records = Records(file)
    records.append(record(seed=0))
    whole = file.read_bytes()
    file.write_bytes(whole + record(seed=1).line().encode()[: min(cut, len(whole) - 1)])
    assert [one.place.seed for one in records.read()] == [0]
    records.append(record(seed=2))
    assert [one.place.seed for one in records.read()] == [0, 2]
    assert file.read_bytes().startswith(whole)


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    file.write_text(record().line() + '{"task": "sort16"}\n', encoding="utf-8")
    with pytest.raises(UnavailableError, match=r"cells\.jsonl:2 is no record"):
        read_records(file)


def test_two_comparisons_do_not_write_one_file(tmp_path: Path) -> None:
    records = Records(tmp_path / "cells.jsonl")
    with records.held(), pytest.raises(UnavailableError, match="another `ais compare`"), records.held():
        pass


def test_measures_are_those_of_the_curves() -> None:
    found = measure(record(p=(0.1, 0.5, 0.3)))
    assert found.p_late == pytest.approx(0.3)
    assert (found.p_end, found.q_end) == (0.3, 0.15)
    assert found.p_fall == pytest.approx(0.2)
    assert (found.early_20, found.early_40) == (0.2, 0.4)
    assert (found.alpha, found.training_seconds) == (0.5, 0.25)
    assert math.isnan(measure(record(alpha=None)).alpha)


def test_a_row_is_compared_seed_by_seed_with_bf16_rollouts_and_with_none() -> None:
    records = [
        *(record("none", seed, (value,) * 3, "bf16") for seed, value in enumerate((0.8, 0.9, 0.7))),
        *(record("none", seed, (value,) * 3) for seed, value in enumerate((0.5, 0.6, 0.7))),
        *(record("ais", seed, (value,) * 3) for seed, value in enumerate((0.7, 0.8))),
    ]
    reference, none, ais = summarize(records)
    assert reference.is_reference
    assert (ais.method, ais.seeds) == ("ais", (0, 1))
    assert ais.against_bf16["p_late"].difference.mean == pytest.approx(-0.1)
    assert ais.against_bf16["q_late"].difference.mean == pytest.approx(-0.475)
    assert ais.against_uncorrected["p_late"].difference.mean == pytest.approx(0.2)
    assert ais.against_uncorrected["p_late"].difference.count == 2
    assert none.against_bf16["p_late"].difference.mean == pytest.approx(-0.2)
    assert none.against_uncorrected["p_late"].difference.mean == 0.0


def test_the_tables_have_every_step_of_every_cell(tmp_path: Path) -> None:
    publish(tmp_path, [record(seed=0), record(seed=1)], Console(quiet=True))
    with (tmp_path / "steps.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["step"]) for row in rows] == [
        (str(seed), str(step)) for seed in (0, 1) for step in range(11)
    ]
    assert [row["p"] for row in rows[:11]] == ["0.1", "", "", "", "", "0.5", "", "", "", "", "0.4"]
    assert [row["reward_mean"] for row in rows[:3]] == ["", "0.1", "0.2"]
    with (tmp_path / "summary.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["method"], row["seeds"], float(row["p_late"])) == ("ais", "2", pytest.approx(1 / 3, abs=1e-5))
    assert "| `ais` | 2 |" in (tmp_path / "summary.md").read_text("utf-8")


def test_the_parquet_file_has_the_rows_of_the_csv_with_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra data")
    publish(tmp_path, [record()], Console(quiet=True))
    table = parquet.read_table(tmp_path / "steps.parquet")
    assert table.num_rows == 11
    assert [str(table.schema.field(name).type) for name in ("task", "step", "p")] == ["string", "int64", "double"]
    assert table.column("p").to_pylist()[5] == 0.5
