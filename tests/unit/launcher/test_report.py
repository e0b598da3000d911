"""The report of a run, from files as the services write them."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import tomllib
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ais.launcher.directory.record import record_of
from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.report import write_report
from ais.launcher.report.drawing import COLOURS, Kind, Rendered, Scale, Series, render, smooth
from ais.launcher.report.plots import DRAWN, scale_of, series_of
from ais.launcher.report.results import read_results
from ais.launcher.report.summary import note, print_summary, rows, totals
from ais.trainer.history.evaluations import append
from ais.trainer.record import StepRecord
from tests.support.records import evaluation_result

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
[correction.mixing]
severity_scale = 0.4
mismatch_limit = 100.0
"""


def step_record(step: int) -> dict[str, object]:
    """A record with every field of the trainer's, so that a renamed one is noticed here."""
    values: dict[str, object] = {field.name: 0.5 + step / 100 for field in dataclasses.fields(StepRecord)}
    values |= {"step": step, "tokens": 4352, "step_seconds": 0.5, "phase_seconds": {"wait": 0.1, "optimizer": 0.2}}
    values |= {
        "reward_components": {"answer": 0.25 + step / 100, "own.<b>": -0.5},
        "judgements_failed": {"overtime": 1},
    }
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


@pytest.mark.parametrize("head", ["", ", float32 head"])
def test_the_policy_that_is_trained_is_the_bf16_one_whichever_head_it_has(trained: RunDirectory, head: str) -> None:
    told = trained.evaluations.read_text().replace('"bf16"', f'"bf16{head}"')
    trained.evaluations.write_text(told)
    results = read_results(trained)
    assert [score.reward_mean for score in results.trained] == [0.3, 0.8]
    assert [row.label for row in rows(results)][:2] == [
        "held-out reward, BF16 policy",
        "held-out reward, rollout policy",
    ]


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
    for plot in DRAWN:
        assert f'-title">{escape(plot.title)}</title>' in html
    assert html.count('role="img"') == len(DRAWN) + sum(plot.wide for plot in DRAWN)


def drawn(number: int, directory: RunDirectory) -> Rendered:
    plot = DRAWN[number]
    rendered = render(plot.title, series_of(plot, read_results(directory)), scale_of(plot), "plot")
    assert rendered is not None
    return rendered


def test_a_threshold_near_the_values_is_drawn_and_named_and_one_far_away_is_not(trained: RunDirectory) -> None:
    number, plot = next((at, plot) for at, plot in enumerate(DRAWN) if plot.title.startswith("Divergence: mean"))
    assert len(plot.thresholds) == 2
    rendered = drawn(number, trained)
    assert [label for _colour, label in rendered.legend] == ["mean |log-ratio|", "severity is one half, 0.4"]
    assert [label for label, _values in rendered.hover["series"]] == ["mean |log-ratio|"]


def test_plots_take_their_colours_from_the_page(trained: RunDirectory) -> None:
    rendered = drawn(0, trained)
    assert "#f000" not in rendered.svg
    assert {colour for colour, _label in rendered.legend} == {"var(--series-1)", "var(--series-2)", "var(--series-3)"}


def test_no_two_series_of_a_plot_look_the_same() -> None:
    many = [Series(str(index), [1, 2], [index, index]) for index in range(len(COLOURS))]
    rendered = render("many", many, Scale(), "plot")
    assert rendered is not None
    assert len({colour for colour, _label in rendered.legend}) == len(COLOURS)
    with pytest.raises(ValueError, match="11 series and the page 10 colours"):
        render("too many", [*many, Series("one more", [1], [1])], Scale(), "plot")


def test_the_page_has_every_colour_by_day_and_by_night(trained: RunDirectory) -> None:
    html = write_report(trained).read_text("utf-8")
    for number in range(1, len(COLOURS) + 1):
        assert len(re.findall(rf"--series-{number}: #[0-9a-f]{{6}};", html)) == 2


def test_a_plot_tells_the_page_its_values_step_by_step(trained: RunDirectory) -> None:
    hover = drawn(0, trained).hover
    assert hover["steps"] == list(range(STEPS + 1))
    values = dict(hover["series"])
    assert values["BF16 policy, held out"][0] == "0.3"
    assert values["BF16 policy, held out"][STEPS] == "0.8"
    assert values["BF16 policy, held out"][1] is None
    assert values["training batches, as sampled"][STEPS] == "0.74"
    assert 0.0 < hover["left"] < hover["right"] <= 1.0
    assert hover["first"] <= 0 < STEPS <= hover["last"]


def test_a_long_run_shows_the_values_of_at_most_a_thousand_steps() -> None:
    steps = list(range(2500))
    rendered = render("long", [Series("x", steps, steps)], Scale(), "plot")
    assert rendered is not None
    assert rendered.hover["steps"] == steps[::3]


@pytest.mark.parametrize(("length", "reach"), [(5, 0), (19, 0), (20, 1), (60, 3), (500, 5)])
def test_a_short_run_is_shown_as_it_is(length: int, reach: int) -> None:
    values = [0.0] * length
    values[length // 2] = 1.0
    assert sum(value > 0.0 for value in smooth(values)) == 2 * reach + 1


def test_steps_have_ticks_at_whole_numbers(trained: RunDirectory) -> None:
    rendered = render("short", [Series("x", [1, 2, 3], [0.1, 0.2, 0.3])], Scale(), "plot")
    assert rendered is not None
    texts = re.findall(r">(\d+(?:\.\d+)?)</text>", rendered.svg[: rendered.svg.index("matplotlib.axis_2")])
    assert texts
    assert all("." not in text for text in texts)


def test_a_reward_beyond_one_stays_on_the_plot() -> None:
    low, high = (
        render("reward", [Series("x", [1, 2], values, Kind.CURVE)], Scale(share=True), "plot")
        for values in ([0.0, 1.0], [0.0, 7.0])
    )
    assert low is not None
    assert high is not None
    assert ">7</text>" in high.svg
    assert ">7</text>" not in low.svg


def test_a_correction_that_does_not_mix_has_no_plot_of_alpha(trained: RunDirectory) -> None:
    mixed = ("alpha", "severity", "reliability", "amplification")
    records = [step_record(step) | dict.fromkeys(mixed) for step in range(1, STEPS + 1)]
    trained.steps.write_text("".join(json.dumps(record) + "\n" for record in records))
    html = write_report(trained).read_text("utf-8")
    assert "Mixing coefficient alpha" not in html
    assert "alpha" not in {row.label for row in rows(read_results(trained))}


def test_the_reward_is_drawn_again_for_narrow_screens(trained: RunDirectory) -> None:
    html = write_report(trained).read_text("utf-8")
    boxes = [tuple(map(float, box.split()[2:])) for box in re.findall(r'viewBox="([^"]+)"', html)]
    assert max(width / height for width, height in boxes[:1]) > 3
    assert 400 * boxes[1][1] / boxes[1][0] > 150  # pixels of height where the page is 400 wide


def test_what_people_wrote_is_escaped(trained: RunDirectory) -> None:
    html = write_report(trained).read_text()
    assert "examples/&lt;model&gt;" in html
    assert "a &lt;reason&gt;" in html
    assert "<model>" not in html


HOSTILE = "<script>alert(1)</script>"


def leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in tree.items():
        yield from leaves(value, (*path, name)) if isinstance(value, dict) else [(*path, name)]


@pytest.mark.parametrize("path", list(leaves(tomllib.loads(CONFIG))), ids=".".join)
def test_no_setting_becomes_a_part_of_the_page(path: tuple[str, ...], trained: RunDirectory) -> None:
    section, name = ".".join(path[:-1]), path[-1]
    hostile = re.sub(
        rf"(\[{re.escape(section)}\]\n(?:[^\[].*\n)*?){name} = .*", rf"\1{name} = {json.dumps(HOSTILE)}", CONFIG
    )
    assert HOSTILE in hostile
    trained.config.write_text(hostile)
    if path == ("run", "steps"):  # the only one that is counted with
        with pytest.raises(ValueError, match="invalid literal"):
            write_report(trained)
    else:
        assert HOSTILE not in write_report(trained).read_text("utf-8")


def test_no_label_of_a_phase_becomes_a_part_of_the_page(trained: RunDirectory) -> None:
    record = step_record(1) | {"phase_seconds": {HOSTILE: 1.0}}
    trained.steps.write_text(json.dumps(record) + "\n")
    assert HOSTILE not in write_report(trained).read_text("utf-8")


def test_the_newest_and_the_first_samples_are_shown_as_text(trained: RunDirectory) -> None:
    samples = [
        {"step": step, "prompt": f"prompt {step} {HOSTILE}", "response": f"{HOSTILE} \u2028", "reward": 0.5}
        | {"finish_reason": "stop", "version": 1, "ordinal": 1, "answer": "x"}
        for step in range(100)
    ]
    lines = "".join(json.dumps(sample) + "\n" for sample in samples) + '{"step": 100, "prom'
    (trained.path / "samples.jsonl").write_text(lines)
    html = write_report(trained).read_text("utf-8")
    assert HOSTILE not in html
    assert [int(step) for step in re.findall(r"<h3>step (\d+),", html)] == [*range(99, 87, -1), 0, 1, 2, 3]


def test_a_run_without_a_step_has_a_report_too(directory: RunDirectory) -> None:
    html = write_report(directory).read_text()
    assert "No step has been trained yet" in html
    assert "unfinished" in html


def test_the_summary_shows_both_policies_before_and_after(trained: RunDirectory) -> None:
    found = {row.label: (row.before, row.after) for row in rows(read_results(trained))}
    assert list(found)[:2] == ["held-out reward, BF16 policy", "held-out reward, rollout policy"]
    assert found["held-out reward, BF16 policy"] == ("0.300 ± 0.020", "0.800 ± 0.020")
    assert found["held-out reward, rollout policy"] == ("0.200 ± 0.020", "0.700 ± 0.020")
    assert "512 prompts, sampled as in training, step 0 and step 24" in note(read_results(trained))


def test_the_summary_and_the_plots_have_every_component_of_the_reward(trained: RunDirectory) -> None:
    results = read_results(trained)
    found = {row.label: (row.before, row.after) for row in rows(results)}
    assert found["  answer"] == ("0.305", "0.445")
    assert found["  own.<b>"] == ("-0.500", "-0.500")
    console = Console(file=io.StringIO(), width=100)
    print_summary(
        console, dataclasses.replace(results, steps=[one | {"reward_components.[b]x": 1} for one in results.steps])
    )
    assert "[b]x" in console.file.getvalue()  # type: ignore[attr-defined]
    drawn = {series.label for plot in DRAWN for series in series_of(plot, results)}
    assert {"answer", "own.<b>", "overtime"} <= drawn
    assert "own.&lt;b&gt;" in write_report(trained).read_text("utf-8")


def test_a_reward_of_one_component_is_not_shown_twice(trained: RunDirectory) -> None:
    trained.steps.write_text(json.dumps(step_record(1) | {"reward_components": {"answer": 0.5}}) + "\n")
    assert "  answer" not in {row.label for row in rows(read_results(trained))}


def test_more_components_than_colours_are_all_in_the_table(trained: RunDirectory) -> None:
    parts = {f"own.{number}": number / 10 for number in range(len(COLOURS) + 5)}
    trained.steps.write_text(json.dumps(step_record(1) | {"reward_components": parts}) + "\n")
    html = write_report(trained).read_text("utf-8")
    assert all(f"own.{number}<" in html for number in range(len(COLOURS) + 5))


def test_held_out_prompts_and_samples_show_their_components(trained: RunDirectory) -> None:
    append(trained.path, evaluation_result(2, sums=0.25))
    sample = {"step": 1, "prompt": "p", "response": "r", "reward": 0.5, "finish_reason": "stop"}
    sample |= {"components": {"answer": 1.0, "length": -0.5}}
    (trained.path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    html = write_report(trained).read_text("utf-8")
    assert '<th scope="col">length</th>' in html
    assert "<td>-0.500</td>" in html
    assert "reward 0.5 (answer 1, length -0.5), ended by stop" in html


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
