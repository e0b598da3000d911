"""What a peer wrote is shown on one line, bounded, and never obeyed by a terminal or a log."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.runtime.logging import LONGEST_FIELD, LONGEST_MESSAGE, LoggingSettings, configure_logging
from ais.runtime.strays import STRAYS, Strays
from ais.runtime.text import LONGEST_TEXT, printable

ANY_TEXT = st.text(st.characters(codec=None), max_size=2_000)


@given(st.one_of(ANY_TEXT, st.binary(max_size=2_000)))
def test_whatever_a_peer_wrote_is_one_bounded_printable_line(text: str | bytes) -> None:
    shown = printable(text)
    assert len(shown) <= LONGEST_TEXT + 30
    assert not set(shown) & set("\n\r\t\x1b\x00\x7f\x85\u2028\u2029\u202e\ufeff")
    shown.encode("utf-8")


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=LONGEST_TEXT))
def test_ordinary_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_what_was_cut_off_is_counted() -> None:
    assert printable("x" * 20_000_000, 10) == "xxxxxxxxxx... (19999990 more)"
    assert printable(b"\xff" * 4, 8) == "\\xff\\xff... (8 more)"


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_log_record_is_one_bounded_line_whatever_stands_in_it(style: str, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging("test", LoggingSettings(format=style))  # type: ignore[arg-type]
        hostile = "\x1b[2J\nERROR forged\u202e" + "x" * 5_000_000
        logging.getLogger("peers").warning("a peer says %s", hostile, extra={"replica": hostile, "ordinal": 3})
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.isprintable()
    assert "\\x1b[2J" in line.replace("\\\\", "\\")
    assert len(line) < LONGEST_MESSAGE + 2 * LONGEST_FIELD
    if style == "json":
        assert json.loads(line)["ordinal"] == 3


def test_a_peer_that_repeats_its_fault_is_logged_once_and_counted_each_time(caplog: pytest.LogCaptureFixture) -> None:
    strays = Strays("replica")
    counted = STRAYS.labels("replica")._value.get()
    for number in range(50):
        strays.skip("a\nb", f"slots: expected 1 or more, got {-number}")
    strays.skip("c", "another peer")
    assert STRAYS.labels("replica")._value.get() - counted == 51
    assert [record.getMessage().split(" is skipped")[0] for record in caplog.records] == [r"replica a\nb", "replica c"]
    strays.forget("a\nb")
    strays.skip("a\nb", "it was good in between")
    assert len(caplog.records) == 3
