"""`ais deadletter` as a person calls it, against a real server and against a run that is on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis
from test_run import ENDLESS, Launcher, eventually, launch, running  # noqa: F401  # `launch` is a fixture

from ais.contracts.keys import Keys
from ais.contracts.trajectory import PolicySpan, ScoredGroup, encode_group
from ais.contracts.v1 import trajectory_pb2 as pb
from tests.support.records import trajectory_of

ROOT = Path(__file__).parents[3]


def ais(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ais.cli", "deadletter", *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def payload() -> bytes:
    import numpy as np

    one = trajectory_of(
        np.arange(6, dtype=np.int32),
        "demo-3-1",
        0,
        np.full(6, -0.5, dtype=np.float32),
        spans=(PolicySpan(1, 0, 2), PolicySpan(2, 2, 6)),
        engine="torch",
        engine_version="1",
        replica_id="replica-7",
    )
    prompt = np.arange(4, dtype=np.int32)
    return encode_group(
        ScoredGroup("demo-3-1", 3, "prompt-3", prompt, (one, replace(one, trajectory_id="x")), (1.0, 0.25), "sort", 1)
    )


def write_letter(redis: Redis, run: str, ordinal: int, group: bytes, reason: str = "staleness: too old") -> str:
    fields = {"entry": "5-0", "ordinal": ordinal, "reason": reason, "group": group}
    return str(redis.xadd(Keys(run).dead_letters, fields).decode())


@pytest.fixture
def server(redis_url: str) -> Redis:
    return Redis.from_url(redis_url)


@pytest.fixture
def settings(redis_url: str, run_name: str) -> tuple[str, ...]:
    return ("--set", f"redis.url={redis_url}", "--set", f"run.name={run_name}")


def test_letters_are_listed_with_what_decodes_of_them(server: Redis, run_name: str, settings: tuple[str, ...]) -> None:
    good, broken = write_letter(server, run_name, 3, payload()), write_letter(server, run_name, 4, b"\xff\xff", "group")
    table = ais("list", *settings)
    assert table.returncode == 0, table.stderr
    assert all(word in table.stdout for word in (good, "staleness: too old", "demo-3-1", broken))
    rows = [json.loads(line) for line in ais("list", "--json", *settings).stdout.splitlines()]
    assert [(row["id"], row["ordinal"], row["group_id"]) for row in rows] == [(good, 3, "demo-3-1"), (broken, 4, None)]
    assert rows[0]["bytes"] == len(payload())


def test_without_letters_the_list_says_so(settings: tuple[str, ...]) -> None:
    assert "the trainer has refused nothing" in ais("list", *settings).stdout
    assert ais("list", "--json", *settings).stdout == ""


def test_a_letter_is_shown_as_far_as_it_decodes(server: Redis, run_name: str, settings: tuple[str, ...]) -> None:
    shown = ais("show", write_letter(server, run_name, 3, payload()), *settings).stdout
    for text in (
        "staleness: too old",
        "is well formed",
        "rewards     1, 0.25",
        "6 tokens; version 1: [0, 2), version 2: [2, 6)",
        "'replica-7'",
        "e4m3/channel x e4m3",
    ):
        assert text in shown
    assert (
        "rewards: expected one for each"
        in ais("show", write_letter(server, run_name, 3, payload() + b"\x3d\x00\x00\x80\x3f"), *settings).stdout
    )
    assert "it begins with ffff" in ais("show", write_letter(server, run_name, 3, b"\xff\xff"), *settings).stdout


HOSTILE = b"\x1b[2J\x1b]0;owned\x07 [/x] [bold]loud[/bold] \xff\xe2\x80\xae\r\nforged line \x9b31m"


@pytest.mark.parametrize("letter_id", ["*", "18446744073709551615-18446744073709551615"])
def test_whatever_a_peer_wrote_is_shown_and_never_obeyed(
    server: Redis, run_name: str, settings: tuple[str, ...], letter_id: str
) -> None:
    forged = pb.ScoredGroup.FromString(payload())
    forged.group_id = forged.trajectories[0].engine = forged.task = HOSTILE.decode(errors="ignore")
    fields = {"entry": HOSTILE, "ordinal": HOSTILE, "reason": HOSTILE, "group": forged.SerializeToString()}
    stored = server.xadd(Keys(run_name).dead_letters, fields, id=letter_id).decode()
    for arguments in (("list",), ("list", "--json"), ("show", stored)):
        done = ais(*arguments, *settings)
        assert done.returncode == 0, done.stderr
        assert "[/x] [bold]loud[/bold]" in done.stdout
        assert all(line.isprintable() for line in done.stdout.splitlines())
        assert not [line for line in done.stdout.splitlines() if line.startswith("forged")]


def test_letters_go_back_where_they_are_wanted_and_the_others_say_why_not(
    server: Redis, run_name: str, settings: tuple[str, ...]
) -> None:
    wanted, replaced = write_letter(server, run_name, 3, payload()), write_letter(server, run_name, 4, payload())
    server.zadd(Keys(run_name).accepted, {"4": 4})
    done = ais("requeue", "--all", *settings)
    assert done.returncode == 0, done.stderr
    assert f"{wanted}: put back into the queue" in done.stdout
    assert f"{replaced}: not put back: a new group of its ordinal is in the queue already" in done.stdout
    assert server.xlen(Keys(run_name).groups) == 1
    assert ais("requeue", replaced, *settings).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "1-0"), 1, "there is no such dead letter"),
        (("show", "7"), 2, "'7' is not the id of a dead letter"),
        (("show", "\u0661-\u0661"), 2, "is not the id of a dead letter"),
        (("show", "99999999999999999999-0"), 3, "Invalid stream ID"),
        (("requeue",), 2, "name the letters to put back, or say --all"),
        (("requeue", "1-0", "--all"), 2, "name the letters to put back, or say --all"),
        (("list", "--set", "redis.url=redis://127.0.0.1:1/0"), 3, "no Redis answers at redis://127.0.0.1:1/0"),
        (("list", "--set", "redis.url="), 3, "has no Redis now"),
        (("list", "--run", "nothing"), 3, "there is no run in"),
        (("list", "--set", "run.nam=x"), 2, "run.name"),
    ],
)
def test_a_call_that_cannot_work_says_what_to_do(
    settings: tuple[str, ...], arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = ais(arguments[0], *settings, *arguments[1:])
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_is_found_by_its_directory_while_its_own_server_runs(launch: Launcher) -> None:  # noqa: F811
    launched = launch(ENDLESS)
    directory = launched.directory
    directory.config.write_text(f'[run]\nname = "{directory.name}"\ndirectory = "{directory.path.parent}"\n')
    eventually(lambda: running(launched) and directory.server_url.exists())
    server = Redis.from_url(directory.server_url.read_text().strip())
    letter = write_letter(server, directory.name, 3, payload())
    for way in (("--run", str(directory.path)), ("-c", str(directory.config))):
        assert letter in ais("list", *way).stdout
    launched.process.send_signal(signal.SIGTERM)
    launched.end()
    ended = ais("list", "--run", str(directory.path))
    assert (ended.returncode, "has no Redis now" in ended.stderr) == (3, True)
