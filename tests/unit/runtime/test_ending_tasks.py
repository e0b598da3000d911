"""Tasks end, even those that lose a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from ais.runtime.tasks import end_tasks


async def test_a_task_that_swallows_its_first_cancellation_is_ended() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end_tasks(task)
    assert task.cancelled()


async def test_the_error_of_a_task_stays_with_it() -> None:
    async def failing() -> None:
        raise ValueError("kept")

    task = asyncio.create_task(failing())
    await asyncio.wait([task])
    await end_tasks(task)
    with pytest.raises(ValueError, match="kept"):
        task.result()
