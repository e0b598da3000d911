"""How a run's own server keeps its promise: an answered write survives SIGKILL."""

from __future__ import annotations

from pathlib import Path

from ais.launcher.processes.commands import valkey


def test_the_server_never_answers_a_write_before_it_is_in_its_file(tmp_path: Path) -> None:
    """`everysec` postpones the write while the flush before it is slow: found by killing it while the disk was busy."""
    arguments = valkey(tmp_path, 1234).arguments
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] in ("no", "always")
