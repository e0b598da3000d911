"""Certificates for tests of real services: those of one deployment, and such as nobody should accept."""

from __future__ import annotations

import atexit
import shutil
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from ais.issuing import AUTHORITY_OF_ALL, issue
from ais.issuing.authority import LIFE, Authority, Issued, Use
from ais.runtime.security.certificates import AUTHORITY, CERTIFICATE, KEY, Certificates


@cache
def secrets() -> Path:
    """What `ais secrets` makes, once for the whole session."""
    parent = Path(tempfile.mkdtemp(prefix="ais-test-secrets-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    assert list(issue(parent / "secrets"))
    return parent / "secrets"


def certificates(service: str) -> Certificates:
    return Certificates(secrets() / service)


def authority() -> Authority:
    """The one that has signed them."""
    place = secrets() / AUTHORITY_OF_ALL
    return Authority(Issued((place / AUTHORITY).read_text(), (place / KEY).read_text()))


def written(directory: Path, issued: Issued, trusted: Authority | None = None) -> Path:
    """A directory of certificates; `trusted`: another authority than the deployment's."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / AUTHORITY).write_text((trusted or authority()).issued.certificate)
    (directory / KEY).touch(0o600)
    (directory / KEY).write_text(issued.key)
    (directory / CERTIFICATE).write_text(issued.certificate)
    return directory


def valid(name: str, *uses: Use, signer: Authority | None = None) -> Issued:
    """A certificate for a service; `signer`: another authority than the deployment's."""
    return (signer or authority()).issue(name, *(uses or Use))


def expired(name: str) -> Issued:
    """One that was valid until an hour ago."""
    return authority().issue(name, *Use, now=datetime.now(UTC) - LIFE - timedelta(hours=1))


def trusting(issued: Issued | None, directory: Path) -> ssl.SSLContext:
    """A client that trusts the deployment's authority, with a certificate or without one. It asks for no name."""
    context = ssl.create_default_context(cadata=authority().issued.certificate)
    context.check_hostname = False
    if issued:
        own = written(directory, issued)
        context.load_cert_chain(own / CERTIFICATE, own / KEY)
    return context
