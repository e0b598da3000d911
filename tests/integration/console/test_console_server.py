"""The console over real HTTP: who may look, what the answers hold, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ais.launcher.directory.record import record_of
from ais.launcher.directory.run_directory import RunDirectory
from ais.runtime.exits import EXIT_UNAVAILABLE
from tests.support.browsing.console import Console, console

CONFIG = """
[run]
name = "demo"
steps = 5
[redis]
url = "redis://user:hidden-word@queue:6379/0"
[correction]
method = "ais"
[correction.mixing]
severity_scale = 0.02
"""


def write_run(path: Path, steps: int, reward: float) -> RunDirectory:
    directory = RunDirectory(path)
    directory.logs.mkdir(parents=True)
    directory.config.write_text(CONFIG)
    record = record_of(path.name)
    record.status = "finished"
    record.write(directory.record)
    records = [{"step": step, "reward_mean": reward, "alpha": None, "time": 1.0} for step in range(1, steps + 1)]
    directory.steps.write_text("".join(json.dumps(one) + "\n" for one in records))
    (directory.logs / "trainer.log").write_text("redis://user:hidden-word@queue:6379/0 \x1b[31mred\n")
    return directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("runs")
    write_run(parent / "demo", 5, 0.25)
    write_run(parent / "demo-2", 3, 0.5)
    write_run(parent / "elsewhere" / "demo", 2, 0.75)
    (parent / "no-run").mkdir()
    return parent


@pytest.fixture(scope="module")
def shown(runs: Path) -> Iterator[Console]:
    with console(runs / "demo", "--with", runs / "elsewhere" / "demo") as one:
        yield one


def test_a_stranger_is_told_what_to_do_and_nothing_else(shown: Console) -> None:
    base, token = str(shown.client.base_url), shown.address.partition("token=")[2]
    for path in ("/", "/api/runs", "/main.js", "/api/state?run=demo", "/?token=wrong", f"/api/runs?token={token}x"):
        answer = httpx.get(base + path)
        assert answer.status_code == 401, path
        assert "address that `ais console` has printed" in answer.text
        assert not answer.cookies


def test_the_token_leaves_the_address_for_a_cookie_that_scripts_cannot_read(shown: Console) -> None:
    answer = httpx.get(shown.address)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_a_page_of_another_name_that_leads_here_is_refused(shown: Console) -> None:
    assert shown.client.get("/api/runs", headers={"Host": "elsewhere.example"}).status_code == 400


def test_every_answer_forbids_what_a_page_of_ours_does_not_do(shown: Console) -> None:
    for path in ("/", "/main.js", "/api/runs", "/api/state?run=none", "/none"):
        headers = shown.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_it_only_reads(shown: Console) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert shown.client.request(method, "/api/state?run=demo").status_code == 405


def test_it_shows_the_runs_beside_its_own_and_the_one_it_was_given(shown: Console, runs: Path) -> None:
    known = shown.ask("runs")
    other = str((runs / "elsewhere" / "demo").resolve())
    assert (known["run"], known["other"]) == ("demo", other)
    assert set(known["runs"]) == {"demo", "demo-2", other}
    rewards = {run: shown.ask("curves", run=run, keys="reward_mean")["series"] for run in known["runs"]}
    assert rewards["demo"]["reward_mean"]["mean"] == [0.25] * 5
    assert rewards["demo-2"]["reward_mean"]["mean"] == [0.5] * 3
    assert rewards[other]["reward_mean"]["mean"] == [0.75] * 2


@pytest.mark.parametrize("run", ["no-run", "..", "../runs/demo", "/etc", "demo/../demo", ""])
def test_what_is_no_run_beside_it_is_not_there(shown: Console, run: str) -> None:
    for path in ("state", "samples", "settings", "logs"):
        assert shown.client.get(f"/api/{path}", params={"run": run}).status_code == 404


@pytest.mark.parametrize("path", ["/../config.toml", "/%2e%2e/server.py", "/..%2fserver.py", "/uplot/../../door.py"])
def test_no_file_beside_the_page_is_given_out(shown: Console, path: str) -> None:
    assert shown.client.get(path).status_code == 404


def test_logs_and_settings_show_no_password_and_no_escapes(shown: Console) -> None:
    assert shown.ask("logs", run="demo")["logs"] == ["trainer"]
    log = shown.client.get("/api/log", params={"run": "demo", "name": "trainer"}).text
    settings = shown.client.get("/api/settings", params={"run": "demo"}).text
    assert "severity_scale = 0.02" in settings
    assert "hidden-word" not in log + settings
    assert "\x1b" not in log
    for name in ("../config", "valkey", ""):
        assert shown.client.get("/api/log", params={"run": "demo", "name": name}).status_code == 404


def test_the_state_is_that_of_the_record(shown: Console) -> None:
    state = shown.ask("state", run="demo")
    assert (state["status"], state["steps"], state["total"], state["left"]) == ("finished", 5, 5, 0)
    assert state["settings"]["correction.mixing.severity_scale"] == 0.02
    assert "redis" not in json.dumps(state["settings"])


def test_a_run_whose_launcher_was_killed_is_dead(shown: Console, runs: Path) -> None:
    directory = write_run(runs / "killed", 2, 0.5)
    record_of("killed").write(directory.record)
    assert shown.ask("state", run="killed")["status"] == "training"  # started one by one, as containers are
    directory.launcher_lock.touch()
    assert shown.ask("state", run="killed")["status"] == "died"


@pytest.mark.parametrize("arguments", [["absent"], ["demo", "--with", "absent"]])
def test_a_run_that_is_not_there_is_told(runs: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "ais.cli", "console", *arguments, "--set", f"run.directory={runs}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_UNAVAILABLE
    assert "there is no run in" in done.stderr


def test_a_port_that_is_taken_is_told(shown: Console, runs: Path) -> None:
    port = str(shown.client.base_url.port)
    command = [sys.executable, "-m", "ais.cli", "console", str(runs / "demo"), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_UNAVAILABLE
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
