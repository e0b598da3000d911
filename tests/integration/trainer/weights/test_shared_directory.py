"""Versions that replicas of the trainer's machine take from its files, and what comes over HTTP instead."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.rollout.weights.control_api import decode_offer
from ais.trainer.settings import PushSettings
from ais.trainer.weights.deltas import Origin, full
from ais.trainer.weights.publisher import WeightPublisher
from ais.trainer.weights.snapshot import Snapshot
from tests.support.recordings import recorded_group, recording
from tests.support.replicas.publishing import payload_of, publishing, sent, served, versions
from tests.support.replicas.replica_process import overrides, process
from tests.support.replicas.replica_stand_ins import Fleet
from tests.support.tiny_models import until

MODEL = Path(__file__).parents[4] / "examples/sort16/model"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """The trainer's."""
    return tmp_path / "staging"


@pytest.fixture
def snapshot(staging: Path) -> Callable[..., Snapshot]:
    return versions(staging)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def publisher(
    redis: Redis, keys: Keys, registry: CollectorRegistry, staging: Path
) -> AsyncIterator[WeightPublisher]:
    async with publishing(redis, keys, registry, shared=staging) as publisher:
        yield publisher


async def test_versions_and_deltas_are_taken_from_the_trainers_files_and_nothing_is_sent(
    publisher: WeightPublisher,
    fleet: Fleet,
    staging: Path,
    registry: CollectorRegistry,
    snapshot: Callable[..., Snapshot],
) -> None:
    replica = await fleet.join("near", shared=staging)
    first, second = snapshot(1), snapshot(2)
    publisher.offer(first)
    await served(first, replica)
    links = [file.path.stat().st_nlink for file in first.files]
    assert links == [2, 2, 2], "the replica has the trainer's files, not copies"
    publisher.offer(second)
    await served(second, replica)
    assert await publisher.settle(5.0)
    assert registry.get_sample_value("ais_weight_push_seconds_count", {"encoding": "delta"}) == 1
    assert replica.shared_shards("taken") == 6
    assert replica.received_bytes == sent(registry, "full") == sent(registry, "delta") == 0
    assert replica.offers == [1, 2], "one offer each was enough"


async def test_one_that_shares_nothing_is_served_over_http_beside_one_that_does(
    publisher: WeightPublisher, fleet: Fleet, staging: Path, snapshot: Callable[..., Snapshot]
) -> None:
    near, far = await fleet.join("near", shared=staging), await fleet.join("far")
    new = snapshot(1)
    publisher.offer(new)
    await served(new, near, far)
    assert (near.received_bytes, far.received_bytes) == (0, new.size)


def missing(file: Path, _elsewhere: Path) -> None:
    file.unlink()


def shortened(file: Path, _elsewhere: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def damaged(file: Path, _elsewhere: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def a_link_to_elsewhere(file: Path, elsewhere: Path) -> None:
    file.replace(elsewhere)
    file.symlink_to(elsewhere)


def a_pipe(file: Path, _elsewhere: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def behind_a_link(file: Path, elsewhere: Path) -> None:
    file.parent.rename(elsewhere)
    file.parent.symlink_to(elsewhere)


@pytest.mark.parametrize(
    ("harm", "outcome", "harmed"),
    [
        (missing, "absent", 1),
        (shortened, "damaged", 1),
        (damaged, "damaged", 1),
        (a_link_to_elsewhere, "damaged", 1),
        (a_pipe, "damaged", 1),
        (behind_a_link, "absent", 3),
    ],
)
async def test_what_is_not_there_or_not_what_was_promised_comes_over_http(
    harm: Callable[[Path, Path], None],
    outcome: str,
    harmed: int,
    redis: Redis,
    keys: Keys,
    registry: CollectorRegistry,
    fleet: Fleet,
    staging: Path,
    tmp_path: Path,
    snapshot: Callable[..., Snapshot],
) -> None:
    """The replica sees another directory than the trainer, in which something is wrong."""
    new = snapshot(1)
    assert new.directory is not None
    there = tmp_path / "there" / new.directory.path.name
    there.mkdir(parents=True)
    for file in new.files:
        (there / file.path.name).write_bytes(file.path.read_bytes())
    harm(there / new.files[1].path.name, tmp_path / "elsewhere")
    replica = await fleet.join("near", shared=tmp_path / "there")
    async with publishing(redis, keys, registry, shared=staging) as publisher:
        publisher.offer(new)
        await served(new, replica)
    assert replica.shared_shards(outcome) == harmed
    assert replica.shared_shards("taken") == 3 - harmed
    assert replica.received_bytes == sum(file.size for file in (new.files if harmed == 3 else new.files[1:2]))


async def test_damage_in_the_trainers_own_files_reaches_nobody_and_the_replica_leaves_them_alone(
    publisher: WeightPublisher,
    fleet: Fleet,
    registry: CollectorRegistry,
    staging: Path,
    snapshot: Callable[..., Snapshot],
) -> None:
    replica = await fleet.join("near", shared=staging)
    new = snapshot(1)
    damaged(new.files[0].path, staging)
    content = payload_of(new)
    publisher.offer(new)
    await until(lambda: (registry.get_sample_value("ais_weight_pushes_total", {"outcome": "failed"}) or 0) > 1)
    assert (replica.applied, payload_of(new)) == ([], content)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory of another file system than the tests'."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


async def test_files_of_another_file_system_are_copied(
    publisher: WeightPublisher, fleet: Fleet, elsewhere: Path, staging: Path, snapshot: Callable[..., Snapshot]
) -> None:
    replica = await fleet.join("near", shared=staging, staging=elsewhere)
    new = snapshot(1)
    publisher.offer(new)
    await served(new, replica)
    assert (replica.shared_shards("taken"), replica.received_bytes) == (3, 0)
    await replica.intake.close()


@pytest.mark.parametrize("place", ["..", "/etc", "a/../..", "./a", "a//b", "a/", "a\0b"])
def test_an_offer_of_a_path_that_leads_elsewhere_is_malformed(place: str, snapshot: Callable[..., Snapshot]) -> None:
    offer = full(snapshot(1), Origin()).offer.model_copy(update={"shared": place})
    with pytest.raises(WeightsRefusedError, match="shared"):
        decode_offer(offer.model_dump_json().encode())


def test_the_shared_directory_is_where_versions_are_staged() -> None:
    run = Path("runs/demo")
    assert PushSettings().shared_directory(run) is None
    assert PushSettings(transfer="shared").shared_directory(run) == run
    assert PushSettings(transfer="shared", staging_directory=Path("/dev/shm")).shared_directory(run) == Path("/dev/shm")


async def test_a_replica_that_is_killed_while_it_takes_a_version_leaves_the_trainers_files_whole_for_the_next(
    redis: Redis,
    redis_url: str,
    keys: Keys,
    registry: CollectorRegistry,
    tmp_path: Path,
    staging: Path,
    snapshot: Callable[..., Snapshot],
) -> None:
    """Real processes of the replay engine, which looks at no tensor."""
    replicas, own = ReplicaRegistry(redis, keys), tmp_path / "replica"
    own.mkdir()
    settings = overrides(
        *(MODEL, redis_url, keys.run, "rollout.engine=replay"),
        f"rollout.replay.recording={recording(tmp_path, recorded_group([3], [4]))}",
        f"rollout.shared_directory={staging}",
        f"rollout.staging_directory={own}",
    )
    one, two = snapshot(1), snapshot(2)
    content = payload_of(one)

    async def record(ready: Callable[[ReplicaRecord], bool]) -> ReplicaRecord:
        async with asyncio.timeout(50):
            while True:
                for seen in await replicas.replicas():
                    if ready(seen):
                        return seen
                await asyncio.sleep(0.02)

    async with publishing(redis, keys, registry, shared=staging) as publisher:
        async with process(*settings, log=tmp_path / "killed.log") as replica:
            first = await record(lambda seen: seen.ready)
            publisher.offer(one)
            await until(lambda: any(file.path.stat().st_nlink > 1 for file in one.files))
            replica.kill()
            await replica.wait()
        async with process(*settings, log=tmp_path / "next.log"):
            await record(lambda seen: seen.replica_id != first.replica_id and seen.policy_version == 1)
            publisher.offer(two)
            await record(lambda seen: (seen.policy_version, seen.policy_digest) == two.identity)
            assert await publisher.settle(5.0)
    assert sent(registry, "full") == sent(registry, "delta") == 0
    assert payload_of(one) == content
