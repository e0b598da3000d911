"""torchrun for ranks of one machine, who meet on loopback: `python -m ais.trainer.ranks.torchrun` takes its arguments.

torchrun's own rendezvous keeps stores that listen on every address of the machine and obey whoever connects.
"""

from __future__ import annotations

import os
import socket
import sys

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.run import main as torchrun

LOOPBACK = "127.0.0.1"
BACKEND = "loopback"
"""Name of the rendezvous, as torchrun's option names it."""


class LoopbackRendezvous(RendezvousHandler):
    """The rendezvous of one machine with itself, and one store on loopback for the agent and the ranks."""

    def __init__(self, run_id: str) -> None:
        listener = socket.create_server((LOOPBACK, 0))
        port = int(listener.getsockname()[1])
        self._store: Store = TCPStore(
            LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        self._meeting_place = RendezvousStoreInfo(LOOPBACK, port)
        self._run_id = run_id
        self._rounds = 0
        self._closed = False

    @property
    def use_agent_store(self) -> bool:
        """The ranks meet in the same store, which outlives them."""
        return True

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """At once: there is no other machine. Each round has keys of its own."""
        self._rounds += 1
        store = PrefixStore(f"{self._run_id}/{self._rounds}", self._store)
        return RendezvousInfo(store, 0, 1, self._meeting_place)

    def is_closed(self) -> bool:
        return self._closed

    def set_closed(self) -> None:
        self._closed = True

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        self._closed = True
        return True


def _rendezvous(parameters: RendezvousParameters) -> RendezvousHandler:
    return LoopbackRendezvous(parameters.run_id)


def main() -> None:
    """Also what the ranks exchange afterwards stays on loopback, unless the environment names another interface."""
    if loopback := next((name for _index, name in socket.if_nameindex() if name.startswith("lo")), None):
        for backend in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", loopback)
    rendezvous_handler_registry.register(BACKEND, _rendezvous)
    torchrun(["--rdzv-backend", BACKEND, "--rdzv-endpoint", LOOPBACK, "--rdzv-id", "ais", *sys.argv[1:]])


if __name__ == "__main__":
    main()
