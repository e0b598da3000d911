"""Hosts and ports as text: the one place that knows how IPv6 addresses are written.

A host is kept bare (`::1`, `127.0.0.1`, `replica-3`). Where a port follows, an IPv6 address needs brackets.
"""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator

WILDCARD = "0.0.0.0"
"""Listens on every IPv4 address; what an empty host means."""

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


def bare_host(text: str) -> str:
    """The host without brackets, an IP address in its shortest form.

    `[0:0::1]` becomes `::1`, and `::ffff:10.0.0.1`, which is IPv4, `10.0.0.1`.

    Raises ValueError for text that is neither a name nor an address, such as a URL or a host with a port.
    """
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ip_address(inner)
        return str(getattr(address, "ipv4_mapped", None) or address)
    except ValueError:
        if not text or _NAME.fullmatch(text):
            return text
    raise ValueError(
        f"{text!r} is not a host: expected a name or an address, such as replica-3, 127.0.0.1 or ::1; a port has a "
        "setting of its own"
    )


Host = Annotated[str, AfterValidator(bare_host)]
"""A setting that holds a host; every spelling is accepted, `bare_host` is kept."""


def authority(host: str, port: int) -> str:
    """`host:port` as gRPC and URLs write it: `[::1]:50051`, `127.0.0.1:50051`."""
    bare = bare_host(host) or WILDCARD
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def http_url(host: str, port: int, tls: bool = False) -> str:
    """The base URL of an HTTP server."""
    return f"{'https' if tls else 'http'}://{authority(host, port)}"


def is_wildcard(host: str) -> bool:
    """Whether a listener on `host` takes connections to every address of the machine."""
    try:
        return ip_address(bare_host(host) or WILDCARD).is_unspecified
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on `host`. A name counts as what it means now."""
    bare = bare_host(host)
    try:
        return ip_address(bare or WILDCARD).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ip_address(address[0]).is_loopback for *_kind, address in found)


def reachable_host(host: str) -> str:
    """Where others reach a listener on `host`: there, or by this machine's name."""
    return socket.gethostname() if is_wildcard(host) else bare_host(host)


def listening_socket(host: str, port: int) -> socket.socket:
    """A TCP listener. `::` takes IPv4 connections too, as gRPC's does. Raises OSError."""
    bare = bare_host(host) or WILDCARD
    try:
        found = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(f"cannot listen on {bare}: {error.strerror}") from error
    family, _type, _protocol, _name, address = min(found, key=lambda one: one[0] == socket.AF_INET6)
    both = family == socket.AF_INET6 and is_wildcard(bare) and socket.has_dualstack_ipv6()
    listener = socket.create_server(address, family=family, dualstack_ipv6=both)
    # What is accepted inherits it. asyncio sets it for sockets that were made with a protocol's number, and these have
    # none: the second packet of an answer would wait 40 ms for the other side to confirm the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return listener
