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
from ais.runtime.metrics.meter import Meter
from ais.runtime.security.refusals import Refusal, tell
from ais.runtime.security.tokens import OTHERS
from ais.runtime.settings import SettingsError

if TYPE_CHECKING:
    import grpc

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "tls.crt", "tls.key"
"""Files in a directory of certificates, under the names that Kubernetes gives them."""
LARGEST_FILE = 1 << 20

METER = Meter(None)
EXPIRY = METER.gauge(  # every service's registry has it: ais.runtime.metrics.registry
    "ais_certificate_not_after_timestamp_seconds",
    "When a certificate that this process presents or trusts expires, in Unix time, by the name in it.",
    "Less than a fortnight away: `ais secrets DIR --renew 30`. Services read new files without a restart.",
    {"subject": ()},
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pem:
    """What stands in the files."""

    authority: bytes
    """Certificates of those who may sign; several while one takes over from another."""
    certificate: bytes
    key: bytes


class Certificates:
    """The certificate of a service, its key, and the authority, as their files are now."""

    def __init__(self, directory: Path) -> None:
        """Raises UnavailableError when a file cannot be read, SettingsError when they cannot be used."""
        self._paths = tuple(directory / name for name in (AUTHORITY, CERTIFICATE, KEY))
        self._directory = directory
        self._stamp = self._now()
        self._pem = self._read()
        self._change = 0

    def pem(self) -> Pem:
        """The files as they are now. What cannot be used is told in the log, and what was before it stays."""
        return self._newest()[1]

    def change(self) -> int:
        """Rises when the files have changed."""
        return self._newest()[0]

    def _newest(self) -> tuple[int, Pem]:
        if (stamp := self._now()) != self._stamp:
            self._stamp = stamp
            try:
                self._pem = self._read()
            except (UnavailableError, SettingsError) as error:
                logger.warning("the certificates stay as they were: %s", error)
            else:
                self._change += 1
                logger.info("%s has changed and is read again", self._directory)
        return self._change, self._pem

    # Contexts, for whoever speaks TLS by Python's ssl.

    def server(self) -> ssl.SSLContext:
        """For a listener that asks each caller for a certificate of the authority."""
        return _ServerContext(self)

    def client(self, name: str) -> ssl.SSLContext:
        """For connections to the service `name`, whatever the address."""
        return _ClientContext(self, name)

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

    def _read(self) -> Pem:
        pem = Pem(*map(_content, self._paths))
        for purpose in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
            _filled(ssl.SSLContext(purpose), self._paths)
        _show_expiry(pem, self._directory)
        return pem

    def filled(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """`context` with the files. Raises SettingsError."""
        return _filled(context, self._paths)


class _Renewed(ssl.SSLContext):
    """A context that hands each new connection to one that has the files as they are now."""

    _certificates: Certificates
    _name: str | None
    _made: tuple[int, ssl.SSLContext] | None

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *_rest: Any, **_more: Any) -> ssl.SSLObject:
        """As asyncio and anyio call it. The name of the machine that they connect to does not count."""
        return self._current().wrap_bio(incoming, outgoing, server_side=self._name is None, server_hostname=self._name)

    def _current(self) -> ssl.SSLContext:
        change = self._certificates.change()
        if self._made is None or self._made[0] != change:
            self._made = (change, self._certificates.filled(self._new()))
        return self._made[1]

    def _new(self) -> ssl.SSLContext:
        raise NotImplementedError


class _ServerContext(_Renewed):
    def __new__(cls, certificates: Certificates) -> _ServerContext:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._certificates, self._name, self._made = certificates, None, None
        return self

    def _new(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.sslobject_class = _Counted
        return context


class _ClientContext(_Renewed):
    def __new__(cls, certificates: Certificates, name: str) -> _ClientContext:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        self._certificates, self._name, self._made = certificates, name, None
        return self

    def _new(self) -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Counted(ssl.SSLObject):
    """A server's end of a connection, which counts the callers that it refuses."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            if refusal := _refusal_of(error):
                tell(refusal)
            raise


def _refusal_of(error: ssl.SSLError) -> Refusal | None:
    """None for a caller who went away, or who refuses us."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "ALERT" in reason:
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refusal.WRONG_CERTIFICATE
    return Refusal.NO_CERTIFICATE if "DID_NOT_RETURN_A_CERTIFICATE" in reason else Refusal.NO_TLS


def _filled(context: ssl.SSLContext, paths: tuple[Path, ...]) -> ssl.SSLContext:
    authority, certificate, key = paths
    context.minimum_version = ssl.TLSVersion.TLSv1_3
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


def _show_expiry(pem: Pem, directory: Path) -> None:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        certificates = [
            *x509.load_pem_x509_certificates(pem.authority),
            x509.load_pem_x509_certificate(pem.certificate),
        ]
        for certificate in certificates:
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            subject = str(names[0].value) if names else "unnamed"
            EXPIRY.labels(subject).set(certificate.not_valid_after_utc.timestamp())
    except ValueError as error:
        raise SettingsError(f"the certificates in {directory} cannot be used: {error}") from None
