"""Which warnings are shown, and how log lines are read."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Literal

import pytest

from ais.launcher.directory.logs import MOST_BYTES, LogFollower, LogLine, last_error, parse_line
from ais.launcher.troubles import KINDS, QUIET_SECONDS, Troubles
from ais.runtime.logging import LoggingSettings, configure_logging


def test_a_warning_is_shown_at_once_and_its_like_are_counted() -> None:
    troubles = Troubles()
    said = [troubles.heard("rollout-0", f"push {n} of digest {n:016x} failed", now=n) for n in range(120)]
    shown = [(n, text) for n, text in enumerate(said) if text]
    assert [n for n, _text in shown] == [0, int(QUIET_SECONDS)]
    assert shown[0][1] == f"rollout-0: push 0 of digest {0:016x} failed"
    assert shown[1][1].endswith("failed (59 more like it in 60 s)")


def test_replicas_that_say_the_same_are_one_kind_and_services_are_not() -> None:
    troubles = Troubles()
    assert troubles.heard("rollout-0", "Redis is away", 0)
    assert troubles.heard("rollout-1", "Redis is away", 0) is None
    assert troubles.heard("collector", "Redis is away", 0)
    assert troubles.heard("rollout-1", "the disk is full", 0)


def test_no_peer_controls_the_screen_or_fills_the_memory() -> None:
    troubles = Troubles()
    for n in range(3 * KINDS):
        text = troubles.heard("collector", f"{chr(0x4E00 + n)}\x1b[2J\n" + "x" * 10_000, 0)
        assert text is not None
        assert text.isprintable()
        assert len(text) < 400
    assert len(troubles._kinds) == KINDS


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_services_log_is_read_back(style: Literal["text", "json"], capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("trainer", LoggingSettings(format=style, level="debug"))
    logger = logging.getLogger("test")
    logger.info("metrics at %s", "http://[::1]:80/metrics")
    logger.warning("a push: to %s failed\nand more", "replica-1", extra={"version": 3})
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("ended")
    lines = capsys.readouterr().err.splitlines()
    logging.basicConfig(force=True, handlers=[logging.StreamHandler(io.StringIO())])
    found = [record for line in lines if (record := parse_line(line))]
    assert [record.level for record in found] == ["INFO", "WARNING", "ERROR"]
    assert found[0].message == "metrics at http://[::1]:80/metrics"
    assert found[1].message.startswith("a push: to replica-1 failed\\nand more")
    assert [record.is_trouble for record in found] == [False, True, True]


@pytest.mark.parametrize(
    "line",
    ["", "Traceback (most recent call last):", "{", "{}", '{"level": 1}', "INFO 2026 x: y", "[" * 9_999, "{" * 9_999],
)
def test_other_output_is_no_record(line: str) -> None:
    assert parse_line(line) is None


def test_a_log_is_followed_from_its_end_whole_lines_only(tmp_path: Path) -> None:
    log = tmp_path / "collector.log"
    stamp = "2026-01-01T00:00:00.000Z"
    log.write_text(f"{stamp} WARNING collector: old\n")
    follower, absent = LogFollower(log), LogFollower(tmp_path / "none.log")
    with log.open("a") as file:
        file.write(f"{stamp} WARNING collector: new\n{stamp} ERROR   coll")
        file.flush()
        assert list(follower.new_lines()) == [LogLine("WARNING", "new")]
        file.write("ector: half\n")
        file.flush()
        assert list(follower.new_lines()) == [LogLine("ERROR", "half")]
    assert list(absent.new_lines()) == []


def test_a_log_that_floods_costs_a_bounded_read_and_shows_its_newest(tmp_path: Path) -> None:
    log = tmp_path / "collector.log"
    follower = LogFollower(log)
    line = "2026-01-01T00:00:00.000Z WARNING collector: {}\n"
    log.write_text("".join(line.format(n) for n in range(100_000)))
    found = list(follower.new_lines())
    assert found[-1] == LogLine("WARNING", "99999")
    assert len(found) <= MOST_BYTES / len(line) + 1
    assert list(follower.new_lines()) == []


def test_the_last_error_of_a_log_is_found() -> None:
    stamp = "2026-01-01T00:00:00.000Z"
    tail = f"{stamp} ERROR   trainer: first\n{stamp} ERROR   trainer: no model\n{stamp} INFO    trainer: bye\nTraceback"
    assert last_error(tail) == "no model"
    assert last_error("nothing of ours") == ""
