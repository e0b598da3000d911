"""The page in a real browser, on runs that have ended: what it shows when other steps or another run are chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ais.launcher.directory.record import record_of
from ais.launcher.directory.run_directory import RunDirectory
from tests.support.browsing import Browser, Page, browser
from tests.support.browsing.console import Console, console

pytestmark = [pytest.mark.chromium, pytest.mark.timeout(120)]

STEPS = 40
SOURCES = {"easy": 0.75, "hard": 0.25}
"""Reward on the held-out prompts of each."""


REPLICAS = 1000
"""One of them does not accept work, another is behind, a third is near its probe's limit."""


def write(file: Path, records: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(path: Path) -> None:
    directory = RunDirectory(path)
    directory.logs.mkdir(parents=True)
    directory.config.write_text(f"[run]\nsteps = {STEPS}\n")
    record = record_of(path.name)
    record.status = "finished"
    record.write(directory.record)
    write(directory.steps, [{"step": step, "reward_mean": step / STEPS} for step in range(1, STEPS + 1)])
    figures = {"step": STEPS, "precision": "fp8", "reward_interval": 0.1, "prompts": 8, "samples": 1}
    write(directory.held_out, [{**figures, "source": name, "reward_mean": mean} for name, mean in SOURCES.items()])


def write_fleet(path: Path) -> None:
    replicas = [
        {
            "replica_id": f"replica-{number}", "engine": "torch", "precision": "e4m3", "version": STEPS, "ready": True,
            "slots": 64, "running": 60, "waiting": 0, "tokens": 10, "log_ratio_abs_mean": 0.02,
            "probe_gap": 0.01, "probe_allowed": 0.05,
        }
        for number in range(REPLICAS)
    ]  # fmt: skip
    replicas[700]["version"], replicas[800]["ready"] = STEPS - 3, False
    replicas[900]["probe_gap"] = 0.045
    fleet = {"time": 1.0, "version": STEPS, "replicas": replicas}
    RunDirectory(path).fleet.write_text(json.dumps(fleet))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Console]]:
    parent = tmp_path_factory.mktemp("runs")
    write_run(parent / "one")
    write_fleet(parent / "one")
    write_run(parent / "other")
    with browser() as chromium, console(parent / "one") as shown:
        yield chromium, shown


@pytest.fixture
def page(opened: tuple[Browser, Console]) -> Page:
    chromium, shown = opened
    page = chromium.page()
    page.resize(1280, 900)
    page.open(shown.address)
    until_steps_from(page, 1)
    return page


def until_steps_from(page: Page, first: int) -> None:
    """Waits until the steps of the first plot begin with this one, as its legend says under the key Home."""
    box = "document.querySelector('figure:not([hidden]) .canvas')"
    press = f"{box}?.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Home'}}))"
    told = "document.querySelector('figure:not([hidden]) .legend li')?.textContent"
    page.until(f"({press}, {told} === 'step {first}')")


def choose_steps(first: int, last: int) -> str:
    fields = f"document.querySelector('#first').value = {first}; document.querySelector('#last').value = {last}"
    return f"{fields}; document.querySelector('#range').requestSubmit()"


def choose_run(page: Page, list_: str, name: str) -> None:
    chosen = f"Object.assign(document.querySelector('#{list_}'), {{value: '{name}'}})"
    page.evaluate(f"{chosen}.dispatchEvent(new Event('change'))")


def test_chosen_steps_are_shown_of_a_run_that_is_chosen_after_them(page: Page) -> None:
    page.evaluate(choose_steps(20, 30))
    until_steps_from(page, 20)
    choose_run(page, "other", "other")
    page.until("[...document.querySelectorAll('.legend li')].some((one) => one.textContent === 'other')")
    choose_run(page, "run", "other")
    page.until("document.querySelector('#name').textContent === 'other'")
    until_steps_from(page, 20)
    assert page.evaluate("document.querySelector('#trouble').hidden")


def test_all_steps_are_shown_also_when_they_are_wanted_before_the_chosen_ones_have_come(page: Page) -> None:
    page.evaluate(choose_steps(20, 30))
    until_steps_from(page, 20)
    page.evaluate(f"{choose_steps(10, 30)}; document.querySelector('#whole').click()")
    until_steps_from(page, 1)


def test_steps_that_were_chosen_while_the_console_was_away_are_shown_when_it_is_back(page: Page) -> None:
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.call("Network.emulateNetworkConditions", offline=True, **network)
    page.evaluate(choose_steps(20, 30))
    page.until("!document.querySelector('#trouble').hidden")
    page.call("Network.emulateNetworkConditions", offline=False, **network)
    until_steps_from(page, 20)


def test_the_score_of_each_source_stands_by_its_name(page: Page) -> None:
    page.until("document.querySelectorAll('#scores tbody tr').length")
    tiles = page.evaluate("[...document.querySelectorAll('#tiles div')].map((one) => one.textContent)")
    for name, mean in SOURCES.items():
        assert f"rollout policy, {name}, step {STEPS}{mean:.3f} ± 0.100" in tiles


def test_of_a_large_fleet_those_that_need_a_look_come_first_and_the_others_are_found(page: Page) -> None:
    names = "[...document.querySelectorAll('#fleet-table tbody th')].map((one) => one.textContent)"
    page.until(f"{names}.length")
    assert page.evaluate(names)[:3] == ["replica-800", "replica-700", "replica-900"]
    assert len(page.evaluate(names)) < REPLICAS
    told = page.evaluate("document.querySelector('#fleet-told').textContent")
    assert "1,000 replicas · 999 accept work · 1 serve an older version" in told
    assert "1 near their probe's limit" in told
    assert "60,000 of 64,000 slots sample" in told
    page.evaluate(
        "Object.assign(document.querySelector('#fleet-text'), {value: 'replica-12'}).dispatchEvent(new Event('input'))"
    )
    page.until(f"{names}.includes('replica-129')")
    assert len(page.evaluate(names)) == 11
