"""One id, from prompt to optimizer step, on every log line about a group."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from ais.runtime.logging import LoggingSettings, configure_logging
from ais.runtime.tracing.correlation import about_group, current_group


def logged(kind: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What two tasks log, each about its own group, and what is logged beside them."""
    configure_logging("test", LoggingSettings.model_validate({"format": kind}))

    async def work(group: str) -> None:
        about_group(group)
        await asyncio.sleep(0)
        logging.getLogger("ais.test").info("works")

    async def main() -> None:
        await asyncio.gather(work("demo-3-1"), work("demo-4-1"))
        logging.getLogger("ais.test").info("rests")

    asyncio.run(main())
    return capsys.readouterr().err.splitlines()


def test_lines_name_the_group_that_their_task_works_on_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.partition("test: ")[2] for line in logged("text", capsys)] == [
        "works group=demo-3-1",
        "works group=demo-4-1",
        "rests",
    ]
    assert [json.loads(line).get("group") for line in logged("json", capsys)] == ["demo-3-1", "demo-4-1", None]


def test_nothing_is_worked_on_at_first() -> None:
    assert current_group() == ""
