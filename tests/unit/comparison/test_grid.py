"""From a comparison's file to its cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from ais.comparison.grid import Cell, cells_of
from ais.comparison.identity import is_same
from ais.comparison.settings import FORMATS, Comparison, load_comparison
from ais.runtime.settings import SettingsError
from ais.settings import to_toml
from ais_core.settings import Method

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "examples" / "sort16" / "model"
FILES = sorted((ROOT / "benchmarks" / "compare").glob("*.toml"))


def cells(*overrides: str) -> list[Cell]:
    return cells_of(load_comparison(None, [f"run.model={MODEL}", *overrides]))


def names(*overrides: str) -> list[str]:
    return [str(cell.place) for cell in cells(*overrides)]


def test_every_combination_is_a_cell_and_bf16_rollouts_are_there_to_compare_with() -> None:
    found = names('compare.methods=["none", "ais"]', 'compare.formats=["e4m3", "e5m2"]', "compare.seeds=2")
    per_seed = ["bf16 none", "e4m3 none", "e4m3 ais", "e5m2 none", "e5m2 ais"]
    assert found == [f"sort16 {one} seed {seed}" for seed in (0, 1) for one in per_seed]


def test_the_reference_is_not_doubled_and_can_be_left_out() -> None:
    both = 'compare.formats=["bf16", "e5m2"]'
    assert len(names(both, "compare.seeds=1")) == 4
    assert len(names('compare.formats=["e5m2"]', "compare.seeds=1", "compare.reference=false")) == 2


def test_a_cell_has_the_settings_of_its_place() -> None:
    overrides = ('compare.methods=[{method = "tis", level = "sequence"}]', "compare.staleness=[4]", "compare.seeds=[7]")
    cell = cells(*overrides, 'compare.formats=["e5m2"]', "trainer.optimizer.learning_rate=1e-5")[1]
    assert str(cell.place) == "sort16 e5m2 tis level=sequence staleness 4 seed 7"
    settings = cell.settings
    assert (settings.run.seed, settings.run.max_staleness) == (7, 4)
    assert (settings.correction.method, settings.correction.level) == ("tis", "sequence")
    assert settings.rollout.precision == FORMATS["e5m2"]
    assert settings.trainer.optimizer.learning_rate == 1e-5


def test_a_method_may_change_the_trainer() -> None:
    entry = '{label = "honest", method = "ais", trainer = {objective = {straight_through = true}}}'
    cell = cells(f"compare.methods=[{entry}]")[1]
    assert cell.place.method == "honest"
    assert cell.settings.trainer.objective.straight_through
    assert cell.settings.correction.method == "ais"


@pytest.mark.parametrize("method", Method.__args__)
def test_every_method_of_the_registry_works_by_its_name(method: str) -> None:
    found = cells(f'compare.methods=["{method}"]', 'compare.formats=["e4m3"]')
    assert found[-1].settings.correction.method == method


def test_tasks_differ_by_the_settings_that_they_name_and_their_paths_count_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "comparison.toml"
    file.write_text(
        '[run]\nmodel = "short"\nsteps = 9\n[compare.tasks.short]\n'
        '[compare.tasks.long]\nrun.model = "long"\nrun.steps = 3\ncollector.task.digits = 48\n',
        encoding="utf-8",
    )
    found = {cell.place.task: cell.settings for cell in cells_of(load_comparison(file))}
    assert (found["short"].run.model, found["short"].run.steps) == (tmp_path / "short", 9)
    assert (found["long"].run.model, found["long"].run.steps) == (tmp_path / "long", 3)
    assert found["long"].collector.task.digits == 48


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (['compare.methods=["ais2"]'], "correction.method"),
        (['compare.methods=[{label = "x"}]'], "names no method"),
        (['compare.methods=["ais", {label = "ais", method = "tis"}]'], "ais stands there twice"),
        (['compare.methods=[{method = "ais", levl = "token"}]'], "levl"),
        (['compare.formats=["fp8"]'], "there is no fp8; there are bf16, e4m3"),
        (['compare.formats=[{weights = "e9"}]'], "weights"),
        (["compare.methods=[]"], "compare.methods is empty"),
        (["compare.seeds=0"], "compare.seeds"),
        (["collector.task.name=guess_number"], "the task guess31 has an environment"),
        (["correction.method=tis"], "give its settings with the method"),
        (["compare.tasks.long={run = {stps = 3}}"], "compare.tasks.long: unknown setting run.stps"),
    ],
)
def test_what_cannot_be_compared_is_told(overrides: list[str], told: str) -> None:
    with pytest.raises(SettingsError) as error:
        cells(*overrides)
    assert told in str(error.value)


def test_printed_settings_are_a_file_of_the_same_cells(tmp_path: Path) -> None:
    comparison = load_comparison(FILES[0], ['compare.methods=[{method = "ais", mixing = {memory = 0.5}}, "none"]'])
    file = tmp_path / "config.toml"
    file.write_text(to_toml(comparison), encoding="utf-8")
    again = load_comparison(file)
    assert [cell.place for cell in cells_of(again)] == [cell.place for cell in cells_of(comparison)]
    assert [cell.identity for cell in cells_of(again)] == [cell.identity for cell in cells_of(comparison)]


@pytest.mark.parametrize(
    "change", ["run.steps=4", "trainer.optimizer.learning_rate=1e-5", "run.groups_per_batch=4", "trainer.lora.rank=4"]
)
def test_other_settings_make_another_cell(change: str) -> None:
    assert not is_same(cells()[0].identity, cells(change)[0].identity)


def test_where_things_lie_and_how_fast_they_go_makes_no_other_cell(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(MODEL)
    elsewhere = cells(f"run.model={tmp_path / 'model'}", "run.name=other", "rollout.slots=7")
    assert is_same(cells()[0].identity, elsewhere[0].identity)


def test_a_setting_that_came_later_makes_no_other_cell_at_its_default() -> None:
    now = cells()[0].identity
    before = {name: value for name, value in now.items() if name != "trainer.optimizer.beta2"}
    assert is_same(before, now)
    assert not is_same(before, now | {"trainer.optimizer.beta2": 0.5})
    assert not is_same(now | {"trainer.optimizer.gone": 1}, now)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_recorded_study_can_be_read(file: Path) -> None:
    assert isinstance(load_comparison(file), Comparison)
    assert cells_of(load_comparison(file))
