"""Hosts in every spelling become one, and whatever joins them with a port writes it as URLs and gRPC expect."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.rollout.settings import RolloutSettings
from ais.runtime.network.addresses import (
    authority,
    bare_host,
    http_url,
    is_wildcard,
    listening_socket,
    reachable_host,
)


@pytest.mark.parametrize(
    ("written", "bare"),
    [
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::0001", "2001:db8::1"),
        ("[fe80::1%eth0]", "fe80::1%eth0"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("replica-3.cluster.local", "replica-3.cluster.local"),
        ("rollout_1", "rollout_1"),
        ("", ""),
    ],
)
def test_a_host_is_kept_bare(written: str, bare: str) -> None:
    assert bare_host(written) == bare


@pytest.mark.parametrize(
    "written", ["[::1]:0", "localhost:80", "http://::1", "::1::", "[", "a b", "-x", "[replica]", "a/b", "::1%"]
)
def test_what_is_no_host_is_refused_in_the_settings(written: str) -> None:
    with pytest.raises(ValueError, match="is not a host: expected a name or an address"):
        RolloutSettings(host=written)


@given(st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None), st.integers(0, 65535))
def test_a_url_of_any_ipv6_address_is_read_back_as_it(address: IPv6Address, port: int) -> None:
    for written in (str(address), address.exploded, f"[{address}]"):
        parts = urlsplit(http_url(written, port))
        assert (parts.hostname, parts.port) == (str(address), port)
        assert authority(written, port) == parts.netloc


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "[::]", "0:0:0:0:0:0:0:0", "::ffff:0.0.0.0"])
def test_who_listens_everywhere_is_reached_by_the_machines_name(host: str) -> None:
    assert is_wildcard(host)
    assert reachable_host(host) == RolloutSettings(host=host).reachable_host == socket.gethostname()


def test_an_advertised_host_comes_first() -> None:
    assert RolloutSettings(host="::", advertised_host="[2001:db8::5]").reachable_host == "2001:db8::5"


def test_what_a_listener_accepts_sends_small_packets_at_once() -> None:
    with listening_socket("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _address = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
