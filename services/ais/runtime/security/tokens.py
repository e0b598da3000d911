"""Tokens in files: made at random, read by whoever needs them, read again when a file changes.

A token never leaves this package but in the header of a call: not by a log, an error, a metric or a setting.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path

from ais.runtime.exits import UnavailableError
from ais.runtime.files import FOR_OWNER, replace_file
from ais.runtime.security.roles import Role
from ais.runtime.settings import SettingsError

RANDOM_BYTES = 32
LONGEST_FILE = 16 * 1024
"""Bytes of a file of tokens."""
OTHERS = 0o007
"""Rights of users who are neither the owner nor of the group."""

_TOKEN = re.compile(rb"[!-~]{16,512}")

logger = logging.getLogger(__name__)


def token_path(directory: Path, role: Role) -> Path:
    return directory / f"{role}.token"


def new_token() -> str:
    """A line with a random token."""
    return f"{secrets.token_urlsafe(RANDOM_BYTES)}\n"


def make_tokens(directory: Path) -> None:
    """Makes a directory with a random token for each role. One that is there is left as it is, whoever made it.

    Raises UnavailableError when that cannot be.
    """
    if directory.is_dir():
        return
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))  # for its owner alone
        try:
            for role in Role:
                replace_file(token_path(made, role), new_token(), FOR_OWNER)
            made.rename(directory)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        if not directory.is_dir():  # else another process was faster
            raise UnavailableError(f"{directory} cannot be made for the run's tokens: {error.strerror}") from error


class TokenFile:
    """The tokens of one role, as its file has them now."""

    def __init__(self, path: Path) -> None:
        """Raises UnavailableError when the file cannot be read, SettingsError when it is no secret or has no token."""
        self._path = path
        self._stamp = self._now()
        self._tokens = _read(path)

    def tokens(self) -> tuple[bytes, ...]:
        """All that are valid. A file that has become unusable is told in the log, and the tokens before it stay."""
        if (stamp := self._now()) != self._stamp:
            self._stamp = stamp
            try:
                self._tokens = _read(self._path)
            except (UnavailableError, SettingsError) as error:
                logger.warning("the tokens stay as they were: %s", error)
            else:
                logger.info("%s has changed and is read again: %d tokens", self._path, len(self._tokens))
        return self._tokens

    def _now(self) -> tuple[int, ...]:
        try:
            stat = self._path.stat()
        except OSError:
            return ()
        return stat.st_mtime_ns, stat.st_ino, stat.st_size, stat.st_mode


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        with path.open("rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(LONGEST_FILE)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}. `ais secrets DIR` makes such files") from None
    if mode & OTHERS:
        raise SettingsError(f"other users can get at {path} (mode {mode & 0o777:03o}): chmod o= {path}")
    tokens = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not tokens or not all(map(_TOKEN.fullmatch, tokens)):
        raise SettingsError(f"{path}: expected one token a line, 16 to 512 visible ASCII characters each")
    return tokens
