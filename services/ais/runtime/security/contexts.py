"""Contexts of Python's ssl whose certificates may change while they are in use, and the callers that they refuse."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from ais.runtime.security.refusals import Refusal, tell


class RenewedContext(ssl.SSLContext):
    """A context that hands each new connection to the one that has the certificates as they are now."""

    _current: Callable[[], ssl.SSLContext]
    _name: str | None

    def __new__(cls, current: Callable[[], ssl.SSLContext], name: str | None = None) -> RenewedContext:
        """`name`: the service that is called; None: others call this one."""
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if name is None else ssl.PROTOCOL_TLS_CLIENT)
        self._current, self._name = current, name
        return self

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *_rest: Any, **_more: Any) -> ssl.SSLObject:
        """As asyncio and anyio call it. The name of the machine that they connect to does not count."""
        return self._current().wrap_bio(incoming, outgoing, server_side=self._name is None, server_hostname=self._name)


def server_context() -> ssl.SSLContext:
    """Asks each caller for a certificate, and counts those whom it refuses. It has no certificates yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.sslobject_class = _Counted
    return context


def client_context() -> ssl.SSLContext:
    """Asks whom it calls for a certificate with the right name. It has no certificates yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


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
