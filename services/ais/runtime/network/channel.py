"""The gRPC channel every client of ours opens."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from ais.runtime.security.certificates import Certificates


def open_channel(
    address: str,
    name: str,
    certificates: Certificates | None,
    use_proxy: bool = False,
    options: Sequence[tuple[str, int]] = (),
) -> grpc.aio.Channel:
    """A channel to the service `name` at `address` (`host:port`); with TLS where there are `certificates`.

    gRPC obeys `grpc_proxy`, `https_proxy` and `http_proxy` of the environment even for loopback, and a proxy cannot
    reach a replica: it is obeyed only with `use_proxy`, and `no_proxy` then says for which addresses it is not.
    """
    chosen: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", int(use_proxy)), *options]
    if certificates is None:
        return grpc.aio.insecure_channel(address, options=chosen)
    # The address says where the service runs, its certificate which one it is.
    chosen += [("grpc.ssl_target_name_override", name), ("grpc.default_authority", name)]
    return grpc.aio.secure_channel(address, certificates.grpc_client(), options=chosen)
