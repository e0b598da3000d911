"""Tokens for tests of real services: one directory for the whole session, and what its roles present."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from ais.runtime.metrics.registry import service_registry
from ais.runtime.security.keyring import TOKENS, Credential, Keyring
from ais.runtime.security.refusals import Refusal
from ais.runtime.security.roles import Role
from ais.runtime.security.tokens import make_tokens


@cache
def tokens() -> Path:
    """Setting `security.tokens` of services that a test starts."""
    parent = Path(tempfile.mkdtemp(prefix="ais-test-tokens-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    make_tokens(parent / TOKENS)
    return parent / TOKENS


def credential(role: Role, directory: Path | None = None) -> Credential:
    """What that role presents; `directory`: tokens of another run."""
    return Keyring(directory or tokens()).credential(role)


def bearer(role: Role, directory: Path | None = None) -> dict[str, str]:
    """The headers of its HTTP requests."""
    return credential(role, directory).headers()


def metadata(role: Role, directory: Path | None = None) -> tuple[tuple[str, str], ...]:
    """The metadata of its gRPC calls."""
    return credential(role, directory).metadata()


def refused_callers() -> dict[str, float]:
    """How many callers this process has turned away, by the reason."""
    registry = service_registry("test")
    return {
        reason: registry.get_sample_value("ais_refused_callers_total", {"reason": reason}) or 0.0 for reason in Refusal
    }
