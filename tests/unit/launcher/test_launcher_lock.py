"""Who asks whether a run is driven is in nobody's way."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path

import pytest

from ais.launcher.directory.lock import held, is_driven
from ais.launcher.directory.run_directory import RunDirectory
from ais.runtime.process import UnavailableError


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path)
    directory.launcher_lock.touch()
    return directory


@pytest.mark.parametrize(("kind", "driven"), [(fcntl.LOCK_SH, False), (fcntl.LOCK_EX, True)])
def test_a_run_is_driven_by_who_holds_its_lock_alone(directory: RunDirectory, kind: int, driven: bool) -> None:
    with directory.launcher_lock.open("r+") as other:
        fcntl.flock(other, kind)
        assert is_driven(directory) is driven
    assert not is_driven(directory)


async def test_a_launcher_is_not_refused_for_somebody_who_looks_at_that_moment(directory: RunDirectory) -> None:
    async def drive() -> bool:
        async with held(directory):
            return is_driven(directory)

    with directory.launcher_lock.open("r+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        driving = asyncio.create_task(drive())
        await asyncio.sleep(0)  # it has asked once
    assert await driving


async def test_a_second_launcher_is_refused(directory: RunDirectory) -> None:
    async with held(directory):
        with pytest.raises(UnavailableError, match="drives"):
            async with held(directory):
                pass
