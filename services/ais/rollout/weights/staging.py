"""A replica's directory for weights. One that is killed leaves it full; the next on the machine clears it away."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = "owner.lock"


@contextmanager
def staging_directory(prefix: str, parent: Path | None) -> Iterator[Path]:
    """A new directory in `parent` (None: the system's for temporary files), gone when the context is left.

    Those of this prefix whose process has died are removed first: a replica that is restarted again and again would
    else fill the disk.
    """
    _clear(prefix, parent or Path(tempfile.gettempdir()))
    # Under a name that nobody clears until it is locked.
    unlocked = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))
    with (unlocked / LOCK_FILE).open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = unlocked.rename(unlocked.with_name(unlocked.name.removeprefix(".")))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _clear(prefix: str, parent: Path) -> None:
    for directory in parent.glob(f"{prefix}*"):
        try:
            with (directory / LOCK_FILE).open(encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            continue  # its owner lives, or is another user, or is not a replica
