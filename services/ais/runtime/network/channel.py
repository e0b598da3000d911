"""The gRPC channel every client of ours opens."""

from __future__ import annotations

from collections.abc import Sequence

import grpc


def open_channel(address: str, use_proxy: bool = False, options: Sequence[tuple[str, int]] = ()) -> grpc.aio.Channel:
    """A channel without TLS to `address` (`host:port`).

    gRPC obeys `grpc_proxy`, `https_proxy` and `http_proxy` of the environment even for loopback, and a proxy cannot
    reach a replica: it is obeyed only with `use_proxy`, and `no_proxy` then says for which addresses it is not.
    """
    return grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", int(use_proxy)), *options])
