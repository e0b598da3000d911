"""A version on its way in: its shards as files on disk, each filled from wherever the last connection was cut."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from io import RawIOBase
from pathlib import Path

from ais.contracts.weights.adapter import ADAPTER, apply_adapter
from ais.contracts.weights.delta import apply_delta
from ais.contracts.weights.delta_blocks import DeltaError
from ais.contracts.weights.offer import (
    DigestBuilder,
    Missing,
    MissingShard,
    Offer,
    RelayTarget,
    Shard,
    sent_name,
)
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.runtime.owned_directory import OwnedDirectory

STALLED_SECONDS = 30.0
"""A connection that sends nothing for this long is given up."""


class StagedShard:
    """What has come of one shard. Its digest is computed on the way, and kept across connections."""

    def __init__(self, shard: Shard, path: Path) -> None:
        self.shard = shard
        self.path = path
        self.size = 0
        self.whole = asyncio.Event()
        """Everything is here, and what is here has the digest promised."""
        self._digest = DigestBuilder()
        self._sender: object = None
        path.touch()

    async def take(self, offset: int, body: AsyncIterator[bytes], received: Callable[[int], None]) -> None:
        """Appends a body that begins at `offset`. From now on an earlier connection's bytes are refused."""
        if self.whole.is_set() or offset != self.size:
            raise WeightsRefusedError("offset", f"expected {self.shard.name} from byte {self.size}, got {offset}", 409)
        sender = self._sender = object()
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(STALLED_SECONDS) as stalled:
                with self.path.open("r+b", buffering=0) as file:
                    file.seek(self.size)
                    async for piece in body:
                        stalled.reschedule(clock() + STALLED_SECONDS)
                        self._append(piece, file, sender)
                        received(len(piece))
        except TimeoutError:
            reason = f"nothing came for {STALLED_SECONDS:g} s after {self.size} of {self.shard.sent_size} bytes"
            raise WeightsRefusedError("body", reason, 408) from None
        except OSError as error:
            raise WeightsRefusedError("staging", f"{self.shard.name} cannot be written: {error}", 503) from error
        if self.size == self.shard.sent_size:
            self._verify()

    def have(self, file: Path) -> None:
        """Takes a file on this file system that is known to have the digest, for whatever came of the shard."""
        file.replace(self.path)
        self._sender, self.size = object(), self.shard.sent_size
        self.whole.set()

    def _append(self, piece: bytes, file: RawIOBase, sender: object) -> None:
        if self._sender is not sender:
            raise WeightsRefusedError("offset", f"{self.shard.name} comes by a newer connection now", 409)
        if self.size + len(piece) > self.shard.sent_size:
            raise WeightsRefusedError("length", f"expected {self.shard.sent_size} bytes, got more")
        if file.write(piece) != len(piece):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._digest.update(piece)
        self.size += len(piece)

    def _verify(self) -> None:
        """Begins again when something else has come than was promised."""
        if (got := self._digest.result()) == self.shard.sent_digest:
            self.whole.set()
            return
        self._digest, self.size = DigestBuilder(), 0
        self.path.write_bytes(b"")  # empties it
        raise WeightsRefusedError("digest", f"expected {self.shard.sent_digest}, got {got}; send the shard again")


class Transfer:
    """One offered version: what has come of it, and the files it becomes."""

    def __init__(self, offer: Offer, staging: Path) -> None:
        self.offer = offer
        self.passed_on: set[tuple[int, RelayTarget]] = set()
        """Whom it is passed on to already, and for which incarnation of the trainer."""
        self._directory = OwnedDirectory(f"version-{offer.version}-", staging)
        self.shards = [
            StagedShard(shard, self._directory.path / sent_name(shard.name, offer.encoding)) for shard in offer.shards
        ]

    def missing(self) -> Missing:
        return Missing(
            shards=tuple(
                MissingShard(index=index, offset=staged.size)
                for index, staged in enumerate(self.shards)
                if not staged.whole.is_set()
            )
        )

    async def whole(self, index: int) -> Path:
        """The bytes that came for a shard, as soon as they are whole and verified."""
        await self.shards[index].whole.wait()
        return self.shards[index].path

    def unpack(self, serving: Sequence[Path], model: Sequence[Path], threads: int) -> list[Path]:
        """The version's files, verified: what came, or what deltas make of the files that serve, or adapters of those
        of the model that the replica was started with. Raises WeightsRefusedError when they cannot."""
        if self.offer.encoding == "full":
            return [staged.path for staged in self.shards]
        files = []
        for index, (staged, shard) in enumerate(zip(self.shards, self.offer.shards, strict=True)):
            target = self._directory.path / shard.name
            try:
                if self.offer.encoding == ADAPTER:
                    apply_adapter(model, staged.path, target, shard.size, shard.digest)
                else:
                    apply_delta(serving[index], staged.path, target, shard.size, shard.digest, threads)
            except (DeltaError, OSError) as error:
                raise WeightsRefusedError("base", f"{shard.name}: {error}; send the full version", 409) from error
            files.append(target)
        return files

    def discard(self) -> None:
        self._directory.remove()
