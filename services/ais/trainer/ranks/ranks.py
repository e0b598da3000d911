"""Joins the processes that train one policy together, which torchrun starts. A process alone is one rank of one.

Rank 0 is the service. All ranks do the same work on shares of the same batch and add up their results. Each rank takes
every decision from these global sums, so all decide alike. One thread of a process issues the collectives, in one
order, each in a phase with a name (`watchdog.py`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store

from ais.runtime.process import UnavailableError
from ais.trainer.ranks.watchdog import Watchdog
from ais.trainer.settings import TrainerSettings

BEHIND_OURS_SECONDS = 15.0
"""How much later than our watchdog's torch's own deadline comes: the error with the rank's name is there first."""
ENDLESS = timedelta(days=365)

logger = logging.getLogger(__name__)


class Ranks:
    """This process's place among the ranks, and what they do together.

    Alone (`Ranks(device)`), nothing is ever sent and every method is the identity.
    """

    rank = 0
    size = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def first(self) -> bool:
        """Whether this process is the service."""
        return self.rank == 0

    @property
    def mesh(self) -> DeviceMesh | None:
        """What the policy is sharded over; None alone."""
        return None

    @property
    def saving(self) -> dist.ProcessGroup | None:
        """The process group through which a checkpoint's writers agree, in the background; None alone."""
        return None

    def attach_thread(self) -> None:
        """Prepares a thread that uses the device. Call it there first."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    @contextmanager
    def phase(self, name: str, deadline: bool = True) -> Iterator[None]:
        """Names the purpose of the collectives in the block. Without a `deadline` they may take any time, as waiting
        for work does."""
        yield

    def sum(self, values: torch.Tensor, what: str) -> torch.Tensor:
        """Returns the element-wise sum over ranks, the same bits on each. `what` names the phase."""
        return values

    def agree(self, condition: bool, what: str) -> bool:
        """Returns whether `condition` holds on every rank. `what` names the phase."""
        return condition

    def tell(self, command: str, payloads: Iterable[bytes] = ()) -> None:
        """Rank 0 gives the others a command."""

    def leave(self) -> None:
        """Ends the common work. All ranks call it."""


class JoinedRanks(Ranks):
    """One rank of several, described by torchrun's environment."""

    def __init__(self, settings: TrainerSettings) -> None:
        """Waits for the others. Raises UnavailableError when there is no GPU for this rank, or torchrun has been
        started in a way that does not survive a restart."""
        local_rank = int(os.environ["LOCAL_RANK"])
        super().__init__(_device(settings.compute.device, local_rank))
        self.attach_thread()
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")  # NCCL's flight recorder: dumped when a collective hangs
        deadline = settings.ranks.collective_seconds
        timeout = timedelta(seconds=deadline + BEHIND_OURS_SECONDS)
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        cuda = self.device.type == "cuda"
        backends = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backends, store=_store(timeout), rank=self.rank, world_size=self.size, timeout=timeout)
        self._mesh = init_device_mesh(self.device.type, (self.size,))
        self._commands: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=ENDLESS)
        """Carries commands, for which other ranks wait as long as rank 0 has none."""
        self._saving: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timeout)
        linger = 2 * BEHIND_OURS_SECONDS if cuda else 0.0
        self._watchdog = Watchdog(_store(timeout, connect_only=True), self.rank, self.size, deadline, linger)
        dist.barrier(self._saving)
        self._watchdog.start()

    @property
    def mesh(self) -> DeviceMesh:
        return self._mesh

    @property
    def saving(self) -> dist.ProcessGroup:
        return self._saving

    @contextmanager
    def phase(self, name: str, deadline: bool = True) -> Iterator[None]:
        with self._watchdog.phase(name, deadline):
            try:
                yield
            except RuntimeError:  # torch's, of every kind: a peer that is gone closes its connections
                logger.error("rank %d of %d failed in %r", self.rank, self.size, name)
                raise

    def sum(self, values: torch.Tensor, what: str) -> torch.Tensor:
        with self.phase(f"sum of {what}"):
            dist.all_reduce(values := values.clone())
        return values

    def agree(self, condition: bool, what: str) -> bool:
        refusals = torch.tensor([0 if condition else 1], device=self.device)
        return int(self.sum(refusals, f"ranks without {what}")) == 0

    def tell(self, command: str, payloads: Iterable[bytes] = ()) -> None:
        parts = list(payloads)
        header = json.dumps({"command": command, "sizes": [len(part) for part in parts]}).encode()
        message = bytearray(b"".join([header, *parts]))
        with self.phase(f"command {command}"):
            self._broadcast(torch.tensor([len(header), len(message)]))
            self._broadcast(torch.frombuffer(message, dtype=torch.uint8))

    def hear(self) -> tuple[str, list[bytes]]:
        """Waits for rank 0's next command."""
        with self.phase("waiting for a command", deadline=False):
            header_length, length = self._broadcast(torch.zeros(2, dtype=torch.int64)).tolist()
            message = self._broadcast(torch.empty(length, dtype=torch.uint8)).numpy().tobytes()
        header: dict[str, Any] = json.loads(message[:header_length])
        payloads, begin = [], header_length
        for size in header["sizes"]:
            payloads.append(message[begin : begin + size])
            begin += size
        return header["command"], payloads

    def leave(self) -> None:
        with self.phase("the end"):
            dist.barrier(self._commands)
        self._watchdog.stop()
        dist.barrier(self._commands)  # rank 0 keeps the store until all have said that they leave
        dist.destroy_process_group()

    def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        dist.broadcast(tensor, src=0, group=self._commands)
        return tensor


def started_by_torchrun() -> bool:
    """Whether the environment says that there are other ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(settings: TrainerSettings) -> Ranks:
    """This process's ranks: those that torchrun started, or itself alone."""
    if started_by_torchrun():
        return JoinedRanks(settings)
    return Ranks(_device(settings.compute.device, 0))


def _device(name: str, local_rank: int) -> torch.device:
    """The device of a rank of this machine."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UnavailableError(
            f"rank {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}. Lower "
            "trainer.ranks.count, or set trainer.compute.device to cpu."
        )
    return torch.device("cuda", local_rank)


def _store(timeout: timedelta, connect_only: bool = False) -> Store:
    """A connection to where the ranks meet: a store that torchrun keeps for ranks of one machine, and else rank 0.

    torchrun's outlives a restart, with all that is in it (pytorch/pytorch issue 135712), so each attempt gets a part of
    its own. Several machines may not count their attempts alike: they need a new store for each.
    """
    kept_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    if kept_by_torchrun and os.environ["LOCAL_WORLD_SIZE"] != os.environ["WORLD_SIZE"]:
        raise UnavailableError(
            "with several machines, start torchrun with --rdzv-backend c10d, and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
            "in its environment: otherwise ranks that it starts again find the addresses of those before them"
        )
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=not (kept_by_torchrun or connect_only) and os.environ["RANK"] == "0",
        timeout=timeout,
    )
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"] if kept_by_torchrun else "any"
    return PrefixStore(f"ais/attempt/{attempt}", store)
