"""Replacing a file whole, so that a crash at any moment leaves the old one or the new one, and never a mixture."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

FOR_ALL = 0o666
"""Mode of a file that others may read, as far as the umask lets them."""
FOR_OWNER = 0o600
"""Mode of a file with secrets in it."""


def replace_file(path: Path, content: str | bytes | Iterable[str], mode: int = FOR_ALL) -> None:
    """Puts a file with `content` in the place of `path`, and returns when it is on the disk.

    Text is written as UTF-8; an iterable of lines (with their newlines) is written one by one and may read the file it
    replaces. A reader sees the old file or the new one. A link at `path` is replaced, not followed. When writing fails,
    the old file stays and the error is raised: OSError, or whatever the iterable raises.
    """
    part = _beside(path)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in (content,) if isinstance(content, str | bytes) else content:
                file.write(piece.encode() if isinstance(piece, str) else piece)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    flush_to_disk([path.parent])


def drop_older_half(path: Path) -> None:
    """Leaves the newer half of a file's lines."""
    lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a text may hold U+2028
    replace_file(path, "\n".join(lines[len(lines) // 2 :]))


def rewind_lines(path: Path, key: str, last: int) -> None:
    """Leaves the lines of JSON objects whose number `key` is at most `last`; what a crash cut short goes.

    Does nothing where there is no file.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="\n") as lines:
        replace_file(path, (line for line in lines if _is_up_to(line, key, last)))


def _is_up_to(line: str, key: str, last: int) -> bool:
    try:
        return line.endswith("\n") and int(json.loads(line)[key]) <= last
    except (ValueError, KeyError, TypeError):
        return False


def replace_link(link: Path, target: str) -> None:
    """Makes `link` a symbolic link to `target`, whatever it was before, and returns when that is on the disk."""
    part = _beside(link)
    part.symlink_to(target)
    try:
        part.replace(link)
    except OSError:
        part.unlink()
        raise
    flush_to_disk([link.parent])


def flush_to_disk(paths: Iterable[Path]) -> None:
    """Waits until the content of files and the entries of directories are on the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _beside(path: Path) -> Path:
    """A name that nobody else uses: writers that race for one file each finish their own."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.writing")
