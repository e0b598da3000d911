"""Tokens for the services of a benchmark: authentication is a part of what is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ais.runtime.security.certificates import Certificates
from ais.runtime.security.keyring import TOKENS, Keyring
from ais.runtime.security.tokens import make_tokens


def keyring_of(directory: Path) -> Keyring:
    """Tokens and certificates of one directory that `ais secrets` has made."""
    return Keyring(directory, Certificates(directory))


@contextmanager
def own_keyring() -> Iterator[Keyring]:
    """Random tokens, whose directory is the services' `security.tokens` while the context is open."""
    with TemporaryDirectory(prefix="ais-benchmark-") as parent:
        directory = Path(parent) / TOKENS
        make_tokens(directory)
        yield Keyring(directory)
