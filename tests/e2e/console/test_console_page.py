"""The page in a real browser, on a real run: it follows, equals the run's records, and asks no other host."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ais.runtime.files import replace_file
from tests.support import browsing
from tests.support.browsing import Page, browser
from tests.support.browsing.console import Console, console
from tests.support.runs import EXAMPLES, Run, started

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(600)]

STATUS = "#status"
WHOLE = f"document.querySelector('{STATUS}').textContent === 'finished'"
ADDITIONS = 12
BEHIND_SECONDS = 2.0
"""All steps but one of `ADDITIONS` are on the page by then."""
ACCESSIBILITY = Path(browsing.__file__).with_name("accessibility.js")
CLICK_NEWER = "Boolean(document.querySelector('#newer')) && (document.querySelector('#newer').click(), true)"


@dataclass(frozen=True)
class Watched:
    """A run that has ended, and a page that was open since its first step."""

    run: Run
    console: Console
    page: Page
    live: bool
    """Whether the page has shown the run before its end."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    parent = tmp_path_factory.mktemp("console")
    settings = {"evaluation.every_steps": 3, "evaluation.prompts": 4}
    with browser() as chromium, started(EXAMPLES / "sort16" / "config.toml", parent, settings) as run:
        page = chromium.page()
        page.resize(1280, 900)
        run.until((run.directory / "run.json").is_file)
        with console(run.directory) as shown:
            page.open(shown.address)
            page.until(f"document.readyState === 'complete' && document.querySelector('{STATUS}').textContent")
            live = page.evaluate(f"['training', 'evaluating'].includes(document.querySelector('{STATUS}').textContent)")
            run.ended_well()
            page.until(WHOLE)
            page.until("document.querySelectorAll('#scores tbody tr').length")
            yield Watched(run, shown, page, live)


def texts(page: Page, selector: str) -> list[str]:
    """The text of each element that matches."""
    return list(page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)"))


def test_the_page_shows_a_run_while_it_goes_on_and_its_end(watched: Watched) -> None:
    assert watched.live
    assert "step 3 of 3" in watched.page.evaluate("document.querySelector('#pace').textContent")
    assert f"ais console {watched.run.directory}" in watched.run.output


def test_what_is_plotted_are_the_numbers_of_the_records(watched: Watched) -> None:
    steps = watched.run.lines("steps")
    told = watched.console.ask(
        "curves", run="small", keys="reward_mean,log_ratio_abs_mean,phase_seconds.,log_ratio_counts."
    )
    assert told["steps"] == [1, 2, 3]
    assert told["series"]["reward_mean"] == {"mean": [step["reward_mean"] for step in steps]}
    assert told["series"]["log_ratio_abs_mean"] == {"mean": [step["log_ratio_abs_mean"] for step in steps]}
    for phase in steps[0]["phase_seconds"]:
        assert told["series"][f"phase_seconds.{phase}"]["mean"] == [step["phase_seconds"][phase] for step in steps]
    assert [sum(step["log_ratio_counts"].values()) for step in steps] == [step["tokens"] for step in steps]


def test_what_the_page_says_are_the_numbers_of_the_records(watched: Watched) -> None:
    last = watched.run.lines("steps")[-1]
    names, values = texts(watched.page, "#tiles dt"), texts(watched.page, "#tiles dd")
    figures = dict(zip(names, values, strict=True))
    assert float(figures["reward, last batch"]) == pytest.approx(last["reward_mean"], rel=1e-3)
    assert float(figures["alpha"]) == pytest.approx(last["alpha"], rel=1e-3, abs=1e-9)
    assert float(figures["mean |log-ratio|, nats"]) == pytest.approx(last["log_ratio_abs_mean"], rel=1e-3)
    rows = texts(watched.page, "#scores tbody tr")
    scores = watched.run.lines("held_out")
    assert len(rows) == len(scores) > 0
    for score, row in zip(reversed(scores), rows, strict=True):
        assert row.startswith(f"{score['step']}rollout policy")
        assert f"{score['reward_mean']:.3f} ± {score['reward_interval']:.3f}" in row


def test_the_fleet_is_on_the_page_with_the_version_that_each_replica_serves(watched: Watched) -> None:
    (row,) = texts(watched.page, "#fleet-table tbody tr")
    told = watched.console.ask("fleet", run="small")
    (replica,) = told["replicas"]
    assert row.startswith(replica["replica_id"])
    assert told["version"] == 3
    assert replica["version"] in (2, 3)  # the run may end before the replica has told the registry of its last version
    assert 0 < replica["probe_gap"] < replica["probe_allowed"]
    assert replica["tokens"] == watched.run.lines("steps")[-1]["tokens"]


def test_every_sample_is_on_the_page_with_its_tokens_and_can_be_found(watched: Watched) -> None:
    kept, page = watched.run.lines("samples"), watched.page
    page.until("!document.querySelector('#newer')") if page.evaluate(CLICK_NEWER) else None
    page.until(f"document.querySelector('#found').textContent.startsWith('{len(kept)} of')")
    newest = kept[-1]
    assert texts(page, "#sample-list .response")[0] == newest["response"]
    assert sum(newest["token_lengths"]) == len(newest["response"])
    assert len(texts(page, "#sample-list li:first-child .response span")) == len(newest["log_ratios"])
    page.evaluate(f"document.querySelector('#text').value = {json.dumps(newest['prompt'])}")
    page.evaluate("document.querySelector('#search').requestSubmit()")
    wanted = sum(newest["prompt"] in sample["prompt"] + sample["response"] for sample in kept)
    page.until(f"document.querySelectorAll('#sample-list li').length === {wanted}")


def test_every_plot_that_has_data_is_drawn_and_described(watched: Watched) -> None:
    shown = texts(watched.page, "figure:not([hidden]) h3")
    assert {"Reward", "Mixing coefficient alpha", "Log-ratios of the tokens", "Where a step's time goes, s"} <= {*shown}
    assert "Divergence from the reference, nats" not in shown  # nothing is compared with one here
    labels = watched.page.evaluate("[...document.querySelectorAll('.canvas')].map((one) => one.ariaLabel)")
    assert any(label and "training batches" in label for label in labels)


def test_the_page_asks_nobody_but_the_console_and_has_no_errors(watched: Watched) -> None:
    assert watched.page.troubles == []
    assert {urlsplit(url).hostname for url in watched.page.requested} == {"127.0.0.1"}


def test_a_step_is_on_the_page_soon_after_it_is_written(watched: Watched) -> None:
    """Steps of a run that goes on, written as the trainer writes them."""
    run, page = watched.run.directory, watched.page
    (run / "launcher.lock").unlink()  # else it would be a run whose launcher was killed
    record = json.loads((run / "run.json").read_text())
    replace_file(run / "run.json", json.dumps(record | {"status": "running"}))
    last = watched.run.lines("steps")[-1]
    page.until(f"document.querySelector('{STATUS}').textContent === 'evaluating'")
    behind = []
    for number in range(4, 4 + ADDITIONS):
        with (run / "steps.jsonl").open("a") as file:
            file.write(json.dumps(last | {"step": number, "version": number, "time": time.time()}) + "\n")
        began = time.monotonic()
        page.until(f"document.documentElement.dataset.rows === '{number}'")
        behind.append(time.monotonic() - began)
    assert sorted(behind)[-2] < BEHIND_SECONDS


@pytest.mark.parametrize("width", [390, 1024, 1800])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_not_pale_controls_have_names_and_nothing_is_wider_than_the_screen(
    watched: Watched, scheme: str, width: int
) -> None:
    watched.page.prefer(scheme)
    watched.page.resize(width, 900)
    watched.page.until(f"document.documentElement.dataset.theme === '{scheme}'")
    watched.page.until(f"innerWidth === {width} && document.documentElement.scrollWidth <= {width}")
    assert watched.page.evaluate(ACCESSIBILITY.read_text()) == []
