"""The report of a run, from files as the services write them."""

from __future__ import annotations

import dataclasses
import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ais.launcher.directory.record import record_of
from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.report import write_report
from ais.launcher.report.plots import PLOTS, render
from ais.launcher.report.results import read_results
from ais.launcher.report.summary import note, rows, totals
from ais.trainer.record import StepRecord

STEPS = 24
CONFIG = """
[run]
name = "demo"
model = "examples/<model>"
steps = 30
groups_per_batch = 32
samples_per_group = 8
max_staleness = 1
[rollout.precision]
weights = "e4m3"
granularity = "channel"
activations = "e4m3"
[correction]
method = "ais"
"""


def step_record(step: int) -> dict[str, object]:
    """A record with every field of the trainer's, so that a renamed one is noticed here."""
    values: dict[str, object] = {field.name: 0.5 + step / 100 for field in dataclasses.fields(StepRecord)}
    values |= {"step": step, "tokens": 4352, "step_seconds": 0.5, "phase_seconds": {"wait": 0.1, "optimizer": 0.2}}
    values |= {"gradient_norm": None} if step == 3 else {}
    return dataclasses.asdict(StepRecord(**values))  # type: ignore[arg-type]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "demo")
    directory.path.mkdir()
    directory.config.write_text(CONFIG)
    return directory


@pytest.fixture
def trained(directory: RunDirectory) -> RunDirectory:
    directory.steps.write_text("".join(json.dumps(step_record(step)) + "\n" for step in range(1, STEPS + 1)))
    scores = [
        {"step": step, "precision": precision, "reward_mean": mean, "reward_standard_error": 0.02, "prompts": 512}
        for precision, step, mean in (
            ("e4m3/channel x e4m3", 24, 0.7),
            ("bf16", 24, 0.8),
            ("bf16", 0, 0.3),
            ("e4m3/channel x e4m3", 0, 0.2),
        )
    ]
    directory.evaluations.write_text("".join(json.dumps(score) + "\n" for score in scores))
    record = record_of("demo")
    record.status, record.reason, record.total_seconds = "failed", "a <reason>", 80.0
    record.write(directory.record)
    return directory


class _Ids(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        for name in ("src", "href", "xlink:href", "action"):
            value = found.get(name) or ""
            self.outside += [value] if value and not value.startswith("#") else []


def parse(html: str) -> _Ids:
    parser = _Ids()
    parser.feed(html)
    return parser


def test_a_report_stands_alone(trained: RunDirectory) -> None:
    html = write_report(trained).read_text()
    parsed = parse(html)
    assert parsed.outside == []
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_every_reference_in_a_report_points_to_one_element(trained: RunDirectory) -> None:
    html = write_report(trained).read_text()
    ids = parse(html).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= set(ids)


def test_every_plot_is_drawn_and_has_a_title_for_those_who_cannot_see_it(trained: RunDirectory) -> None:
    html = write_report(trained).read_text()
    for plot in PLOTS:
        assert f'-title">{escape(plot.title)}</title>' in html
    assert html.count('role="img"') == len(PLOTS)


def test_plots_take_their_colours_from_the_page(trained: RunDirectory) -> None:
    rendered = render(PLOTS[0], read_results(trained), "plot")
    assert rendered is not None
    assert "#f000" not in rendered.svg
    assert {colour for colour, _label in rendered.legend} == {"var(--series-1)", "var(--series-2)", "var(--series-3)"}


def test_what_people_wrote_is_escaped(trained: RunDirectory) -> None:
    html = write_report(trained).read_text()
    assert "examples/&lt;model&gt;" in html
    assert "a &lt;reason&gt;" in html
    assert "<model>" not in html


def test_a_run_without_a_step_has_a_report_too(directory: RunDirectory) -> None:
    html = write_report(directory).read_text()
    assert "No step has been trained yet" in html
    assert "unfinished" in html


def test_the_summary_shows_both_policies_before_and_after(trained: RunDirectory) -> None:
    found = {row.label: (row.before, row.after) for row in rows(read_results(trained))}
    assert list(found)[:2] == ["held-out reward, BF16 policy", "held-out reward, rollout policy"]
    assert found["held-out reward, BF16 policy"] == ("0.300 ± 0.020", "0.800 ± 0.020")
    assert found["held-out reward, rollout policy"] == ("0.200 ± 0.020", "0.700 ± 0.020")
    assert "512 prompts, one sample each as in training, step 0 and step 24" in note(read_results(trained))


def test_rates_are_totals_over_total_time(trained: RunDirectory) -> None:
    found = dict(totals(read_results(trained)))
    assert found["steps"] == f"{STEPS} of 30"
    assert found["steps/s"] == "2.00"
    assert found["tokens/s"] == "8,704"
    assert found["wall time"] == "1:20"


def test_the_two_ends_of_a_short_run_do_not_overlap(trained: RunDirectory) -> None:
    trained.steps.write_text("".join(json.dumps(step_record(step)) + "\n" for step in range(1, 6)))
    results = read_results(trained)
    assert results.window == 2
    assert results.early("alpha") == pytest.approx(0.515)
    assert results.late("alpha") == pytest.approx(0.545)


def test_a_quantity_without_a_value_does_not_spoil_a_mean(trained: RunDirectory) -> None:
    assert read_results(trained).early("gradient_norm") == pytest.approx(
        sum(0.5 + step / 100 for step in range(1, 11) if step != 3) / 9
    )
