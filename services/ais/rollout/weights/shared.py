"""Takes a version from files that the trainer and this replica share, where an offer says that they lie there.

The path in an offer is one from the directory that this replica's own settings name. It is walked one name at a time,
and no symbolic link is followed, so nothing outside that directory can be opened, whatever an offer says. A file is
linked under a name of our own and then hashed: what is verified is what will be loaded. Where it cannot be linked, as
from another file system, it is copied. What is not there, or is not what was promised, comes over HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import stat
from pathlib import Path

from prometheus_client import Counter

from ais.contracts.weights.offer import Shard, digest_of_file, sent_name
from ais.rollout.weights.transfer import StagedShard, Transfer
from ais.runtime.text import printable

COPIED_BYTES = 1 << 20
"""Files of another file system are copied in pieces of this size."""

logger = logging.getLogger(__name__)


class DamagedError(Exception):
    """A file is not what the offer says of it."""


async def take_shared(transfer: Transfer, shared: Path, threads: int, outcomes: Counter) -> None:
    """Every shard of the transfer that is in `shared` becomes whole; `outcomes` counts what became of each.

    Up to `threads` are hashed at once. Raises nothing.
    """
    free = asyncio.Semaphore(threads)
    directory, encoding = transfer.offer.shared, transfer.offer.encoding
    problems: list[str] = []

    async def take(staged: StagedShard) -> None:
        source = f"{directory}/{sent_name(staged.shard.name, encoding)}"
        target = staged.path.with_name(f"{staged.path.name}.shared")
        async with free:
            try:
                await asyncio.to_thread(_take, shared, source, target, staged.shard)
                staged.have(target)
            except DamagedError as error:
                outcomes.labels("damaged").inc()
                problems.append(str(error))
            except OSError as error:
                outcomes.labels("absent").inc()
                problems.append(f"{source}: {error.strerror}")
            else:
                outcomes.labels("taken").inc()

    await asyncio.gather(*(take(staged) for staged in transfer.shards))
    if problems:
        logger.warning(
            "%d of %d files of version %d cannot be taken from rollout.shared_directory and come over HTTP: %s",
            len(problems),
            len(transfer.shards),
            transfer.offer.version,
            printable(problems[0]),
        )


def _take(shared: Path, source: str, target: Path, shard: Shard) -> None:
    """`target` becomes the file, verified. Raises OSError or DamagedError, and leaves no `target` then."""
    try:
        _bring(shared, source, target)
        found = target.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != shard.sent_size:
            kind = stat.filemode(found.st_mode)
            raise DamagedError(f"{source}: expected a file of {shard.sent_size} bytes, got {kind} of {found.st_size}")
        if (digest := digest_of_file(target)) != shard.sent_digest:
            raise DamagedError(f"{source}: expected {shard.sent_digest}, got {digest}")
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _bring(shared: Path, source: str, target: Path) -> None:
    """Links or copies what has the name `source` below `shared`. Raises OSError, also where the way is a link."""
    *directories, name = source.split("/")
    at = os.open(shared, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for directory in directories:
            below = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        try:
            os.link(name, target, src_dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without hard links, or another user's file
            source_file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=at)
            with os.fdopen(source_file, "rb") as file, target.open("xb") as copy:
                shutil.copyfileobj(file, copy, COPIED_BYTES)
    finally:
        os.close(at)
