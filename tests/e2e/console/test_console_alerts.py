"""The alerts of a real Prometheus on the page, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ais.launcher.directory.record import record_of
from ais.launcher.directory.run_directory import RunDirectory
from tests.support.browsing import Page, browser
from tests.support.browsing.console import console
from tests.support.monitoring.prometheus import running

pytestmark = [pytest.mark.chromium, pytest.mark.prometheus, pytest.mark.timeout(120)]

FIRING = {
    "alert": "AisReplicaBehind",
    "expr": "vector(3) > 2",
    "labels": {"severity": "warning"},
    "annotations": {"summary": "{{ $value }} versions <b>old", "runbook_url": "docs/runbook.md#aisreplicabehind"},
}
PENDING = {"alert": "AisNotFinite", "expr": "vector(1)", "for": "1h"}


def write_run(path: Path) -> Path:
    directory = RunDirectory(path)
    directory.logs.mkdir(parents=True)
    directory.config.write_text("[run]\nsteps = 1\n")
    record = record_of(path.name)
    record.status = "finished"
    record.write(directory.record)
    return path


def told(page: Page) -> str:
    return str(page.evaluate("document.querySelector('#alerts-told').textContent"))


def test_an_alert_that_fires_is_on_the_page_with_its_runbook_and_at_its_top(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(json.dumps({"groups": [{"name": "one", "interval": "1s", "rules": [FIRING, PENDING]}]}))
    run = write_run(tmp_path / "run")
    with (
        running(tmp_path, {}, tmp_path / "token", [rules]) as prometheus,
        console(run, "--prometheus", prometheus.url) as shown,
        browser() as chromium,
    ):
        page = chromium.page()
        page.open(shown.address)
        page.until("document.querySelectorAll('#alert-table tbody tr').length === 2")
        rows = "[...document.querySelectorAll('#alert-table tbody tr')]"
        cells = f"[...{rows}[0].children].map((one) => one.textContent)"
        page.until(f"{cells}[1] === 'firing, warning'")
        name, _state, since, summary, _about, runbook = page.evaluate(cells)
        assert (name, summary, runbook) == ("AisReplicaBehind", "3 versions <b>old", "docs/runbook.md#aisreplicabehind")
        assert since.endswith("Z")
        assert told(page) == f"{prometheus.url}: 1 firing, 1 pending"
        assert page.evaluate("document.querySelector('#firing:not([hidden])').textContent") == (
            "An alert fires: AisReplicaBehind"
        )
        assert page.troubles == []
        assert all(url.startswith("http://127.0.0.1:") for url in page.requested)


def test_without_a_prometheus_the_page_says_how_to_name_one(tmp_path: Path) -> None:
    with console(write_run(tmp_path / "run")) as shown, browser() as chromium:
        page = chromium.page()
        page.open(shown.address)
        page.until("document.querySelector('#alerts-told')?.textContent")
        assert "--prometheus URL" in told(page)
        assert page.evaluate("document.querySelector('#firing').hidden")
