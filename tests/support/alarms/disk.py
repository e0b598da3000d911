"""A file system of a test's own, which becomes nearly full at a word."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SmallDisk:
    """In memory, which it takes only as it is filled."""

    directory: Path
    trouble: str
    """Why there is none: this user may not mount. Then the directory is an ordinary one."""

    @staticmethod
    @contextmanager
    def mounted(directory: Path) -> Iterator[SmallDisk]:
        """One with room."""
        directory.mkdir()
        trouble = _done("mount", "-t", "tmpfs", "-o", "size=3g", "tmpfs", str(directory))
        try:
            yield SmallDisk(directory, trouble)
        finally:
            if not trouble:
                _done("umount", "--lazy", str(directory))

    def shrink(self) -> None:
        """Leaves less than 64 MB of room."""
        assert not (trouble := _done("mount", "-o", "remount,size=64m", str(self.directory))), trouble


def _done(*command: str) -> str:
    """What it says when it fails; empty: it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return f"there is no {command[0]}"
    return (done.stderr.strip() or "it failed") if done.returncode else ""
