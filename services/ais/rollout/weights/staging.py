"""A replica's directory for weights. A killed replica leaves it full; the next one on the machine clears it away."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK_FILE = "owner.lock"


@contextmanager
def staging_directory(prefix: str, parent: Path | None) -> Iterator[Path]:
    """A new directory in `parent` (None: the system's for temporary files), removed when the context is left.

    Directories of this prefix whose process has died are removed first: otherwise a replica that is restarted again and
    again would fill the disk.
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
    """Everybody may write to the directory for temporary files, so anything may lie there under our names."""
    for directory in parent.glob(f"{prefix}*"):
        try:
            with _opened(directory / LOCK_FILE) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            continue  # its owner lives, or is another user, or is not a replica


def _opened(path: Path) -> IO[bytes]:
    """Raises OSError for anything but a file of ours. A pipe or a device is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(descriptor)
        raise OSError(f"{path} is no lock file of ours")
    return os.fdopen(descriptor, "rb")
