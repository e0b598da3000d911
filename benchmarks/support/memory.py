"""Peaks of a process's resident memory (Linux). Not `ru_maxrss`: a process inherits it from the one that started it."""

from __future__ import annotations

from pathlib import Path


def peak(process_id: int) -> int:
    """Highest resident memory so far, bytes."""
    return _status(process_id, "VmHWM")


def forget_peak(process_id: int) -> int:
    """From now on `peak` is that of what follows. Returns the resident memory now, bytes."""
    Path(f"/proc/{process_id}/clear_refs").write_text("5", encoding="utf-8")
    return _status(process_id, "VmRSS")


def _status(process_id: int, field: str) -> int:
    status = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024
