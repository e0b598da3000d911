"""Mutual TLS: both ends of a connection present a certificate of one authority, and one may be changed at any time.

A certificate says which service somebody is ("rollout"), not on which machine: replicas register under names that
nobody knows beforehand. So a client asks for the service's name, wherever it connects to, and a server takes any
certificate of the authority; what a caller may do is said by his token.
"""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ais.runtime.exits import UnavailableError
from ais.runtime.security.contexts import RenewedContext, client_context, server_context
from ais.runtime.security.expiry import show_expiry
from ais.runtime.security.tokens import OTHERS
from ais.runtime.settings import SettingsError

if TYPE_CHECKING:
    import grpc

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "tls.crt", "tls.key"
"""Files in a directory of certificates, under the names that Kubernetes gives them."""
LARGEST_FILE = 1 << 20
READINGS = 3
"""How often files that change while they are read are read again before they count as unusable."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pem:
    """What stands in the files."""

    authority: bytes
    """Certificates of those who may sign; several while one takes over from another."""
    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class _Usable:
    """Files that were read at one moment, and that fit one another."""

    pem: Pem
    server: ssl.SSLContext
    client: ssl.SSLContext
    names: tuple[str, ...]
    """Services that the certificate says it is."""
    ends: dict[str, float]
    """When each certificate expires, in Unix time, by the name in it."""


class Certificates:
    """The certificate of a service, its key, and the authority, as their files are now.

    Files that cannot be used, such as a new key beside the old certificate, change nothing: what was read before stays.
    """

    def __init__(self, directory: Path) -> None:
        """Raises UnavailableError when a file cannot be read, SettingsError when they cannot be used."""
        self._paths = tuple(directory / name for name in (AUTHORITY, CERTIFICATE, KEY))
        self._directory = directory
        self._stamp = self._now()
        self._change, self._usable = 0, self._read()

    def pem(self) -> Pem:
        """The files as they are now. What cannot be used is told in the log, and what was before it stays."""
        return self._newest().pem

    def check_says(self, service: str) -> None:
        """Raises SettingsError when the certificate does not say `service`, which is what callers ask for."""
        if service not in (names := self._newest().names):
            raise SettingsError(
                f"the certificate in {self._directory} says {' and '.join(map(repr, names)) or 'no name'}, and whoever "
                f"calls this service asks for {service!r}: set security.certificates to the directory of {service!r} "
                "that `ais secrets DIR` makes"
            )

    def change(self) -> int:
        """Rises when the files have changed."""
        self._newest()
        return self._change

    def _newest(self) -> _Usable:
        if (stamp := self._now()) != self._stamp:
            self._stamp = stamp
            try:
                self._usable = self._read()
            except (UnavailableError, SettingsError) as error:
                logger.warning("the certificates stay as they were: %s", error)
            else:
                self._change += 1
                logger.info("%s has changed and is read again", self._directory)
        return self._usable

    # Contexts, for whoever speaks TLS by Python's ssl.

    def server(self) -> ssl.SSLContext:
        """For a listener that asks each caller for a certificate of the authority."""
        return RenewedContext(lambda: self._newest().server)

    def client(self, name: str) -> ssl.SSLContext:
        """For connections to the service `name`, whatever the address."""
        return RenewedContext(lambda: self._newest().client, name)

    # Credentials, for gRPC.

    def grpc_server(self) -> grpc.ServerCredentials:
        """The same for a gRPC listener, which asks for the files again at each handshake."""
        import grpc

        def configuration() -> Any:
            pem = self.pem()
            return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.authority)

        return grpc.dynamic_ssl_server_credentials(configuration(), configuration, require_client_authentication=True)

    def grpc_client(self) -> grpc.ChannelCredentials:
        """The same for a gRPC channel, which keeps what the files have now."""
        import grpc

        pem = self.pem()
        return grpc.ssl_channel_credentials(pem.authority, pem.key, pem.certificate)

    def _now(self) -> tuple[object, ...]:
        return tuple(_stamp(path) for path in self._paths)

    def _read(self) -> _Usable:
        for _reading in range(READINGS):
            before = self._now()
            usable = _read(self._paths)
            if self._now() == before:  # else what ssl has read may not be what stands in `pem`
                show_expiry(self, usable.ends)
                return usable
        raise UnavailableError(f"the certificates in {self._directory} change whenever they are read: write them once")


def _read(paths: tuple[Path, ...]) -> _Usable:
    pem = Pem(*map(_content, paths))
    server, client = (_filled(context, paths) for context in (server_context(), client_context()))
    return _Usable(pem, server, client, *_described(pem, paths[0].parent))


def _filled(context: ssl.SSLContext, paths: tuple[Path, ...]) -> ssl.SSLContext:
    authority, certificate, key = paths
    try:
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key, password="")  # without one, OpenSSL would ask on the terminal
    except OSError as error:  # ssl.SSLError too
        reason = getattr(error, "reason", None) or error.strerror or error
        raise SettingsError(
            f"the certificates in {certificate.parent} cannot be used ({reason}): expected PEM, and the certificate's "
            "own key, without a password"
        ) from None
    return context


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_ino, stat.st_size, stat.st_mode


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode, content = os.fstat(file.fileno()).st_mode, file.read(LARGEST_FILE)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}. `ais secrets DIR` makes such files") from None
    if path.name == KEY and mode & OTHERS:
        raise SettingsError(f"other users can get at {path} (mode {mode & 0o777:03o}): chmod o= {path}")
    return content


def _described(pem: Pem, directory: Path) -> tuple[tuple[str, ...], dict[str, float]]:
    """Names in the certificate, and when each of the certificates ends, the first of a name."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        own = x509.load_pem_x509_certificate(pem.certificate)
        ends: dict[str, float] = {}
        for certificate in (*x509.load_pem_x509_certificates(pem.authority), own):
            common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            subject, end = str(common[0].value) if common else "unnamed", certificate.not_valid_after_utc.timestamp()
            ends[subject] = min(end, ends.get(subject, end))
        names = [one.value for one in own.extensions if isinstance(one.value, x509.SubjectAlternativeName)]
        return tuple(name for one in names for name in one.get_values_for_type(x509.DNSName)), ends
    except ValueError as error:
        raise SettingsError(f"the certificates in {directory} cannot be used: {error}") from None
