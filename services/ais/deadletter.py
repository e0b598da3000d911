"""`ais deadletter ...`: shows what the trainer refused, and puts back what it refused wrongly."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ais.helping import HelpGroup
from ais.runtime.exits import EXIT_FAILED, EXIT_SETTINGS, EXIT_UNAVAILABLE

if TYPE_CHECKING:
    from ais.contracts.dead_letters import DeadLetter, DeadLetters
    from ais.settings import Settings

HEAD_BYTES = 64
"""Bytes shown of what does not decode."""
LONGEST_LINE = 2_000
"""Characters of one line that `show` prints."""

app = typer.Typer(
    no_args_is_help=True,
    cls=HelpGroup,
    rich_markup_mode=None,
    help="""Look at groups that the trainer refused, and put them back.

    The trainer moves a group that it must not train on (malformed, too stale, of other settings) to the run's
    dead-letter stream, with the reason. The collector has the group's prompt sampled again, so that mostly there is
    nothing to do but to read the reasons:

        ais deadletter list --run demo
        ais deadletter show 1764000000000-0 --run demo

    When the cause was a mistake that is corrected now, such as a trainer with other settings than the collector,
    letters whose ordinal is still missing can go back. The trainer judges them again:

        ais deadletter requeue --all --run demo

    A run is named by `--run NAME` (or its directory), also while it runs, or by its services' settings file (`-c`).
    """,
)

Config = Annotated[Path | None, typer.Option("-c", "--config", help="TOML settings file.", metavar="FILE")]
Run = Annotated[str | None, typer.Option("--run", help="Name of a run of `ais run`, or its directory.", metavar="RUN")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override one setting; may be repeated.", metavar="KEY=VALUE")
]
LetterId = Annotated[str, typer.Argument(help="As `ais deadletter list` prints it.", metavar="ID")]


@app.command(name="list")
def list_letters(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    run: Run = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """List the dead letters, oldest first.

    ais deadletter list --run demo
    ais deadletter list -c config.toml --set redis.url=redis://queue:6379/0 --json
    """

    async def main(letters: DeadLetters, _settings: Settings) -> int:
        found = [_row(letter) async for letter in letters.all()]
        if as_json:
            for row in found:
                print(json.dumps(row))
        else:
            _print_table(found)
        return 0

    _with_letters(run, config, overrides, main)


@app.command()
def show(letter_id: LetterId, run: Run = None, config: Config = None, overrides: Overrides = None) -> None:
    """Show one dead letter: its reason, and its content as far as it can be read.

    ais deadletter show 1764000000000-0 --run demo
    """
    from ais.runtime.text import printable

    _check_id(letter_id)

    async def main(letters: DeadLetters, _settings: Settings) -> int:
        letter = await letters.get(letter_id)
        if letter is None:
            return _unknown(letter_id)
        for line in _described(letter):
            print(printable(line, LONGEST_LINE))
        return 0

    _with_letters(run, config, overrides, main)


@app.command()
def requeue(
    letter_ids: Annotated[list[str] | None, typer.Argument(help="Which ones.", metavar="ID...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every letter that may go back.")] = False,
    run: Run = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Put dead letters back into the queue, where the trainer judges them again.

    A letter whose ordinal has another group by now, or has been trained, stays, and the reason is said: nothing is ever
    trained twice. The exit code is 1 if a letter that you named did not go back.

        ais deadletter requeue 1764000000000-0 1764000000000-1 --run demo
        ais deadletter requeue --all --run demo
    """
    if bool(letter_ids) == everything:
        _fail("name the letters to put back, or say --all", EXIT_SETTINGS)
    for letter_id in letter_ids or ():
        _check_id(letter_id)

    async def main(letters: DeadLetters, settings: Settings) -> int:
        wanted = letter_ids or [letter.letter_id async for letter in letters.all()]
        outcomes = Counter[bool]()
        for letter_id in wanted:
            outcome = await letters.requeue(letter_id, settings.run.groups_per_batch)
            print(f"{letter_id}: {_OUTCOMES[outcome.value]}")
            outcomes[outcome.value == "requeued"] += 1
        print(f"{outcomes[True]} put back, {outcomes[False]} left")
        return EXIT_FAILED if letter_ids and outcomes[False] else 0

    _with_letters(run, config, overrides, main)


_OUTCOMES = {
    "requeued": "put back into the queue",
    "unknown": "there is no such dead letter (they are kept up to a number, the oldest go first)",
    "alien": "not put back: no collector wrote it, it belongs to no prompt",
    "replaced": "not put back: a new group of its ordinal is in the queue already",
    "trained": "not put back: the batch of its ordinal has been trained",
    "finished": "not put back: the run has finished",
}


def _row(letter: DeadLetter) -> dict[str, object]:
    message = letter.message()
    return {
        "id": letter.letter_id,
        "time": _time(letter),
        "ordinal": letter.ordinal,
        "reason": letter.reason,
        "bytes": len(letter.payload),
        "group_id": message.group_id if message else None,
    }


def _print_table(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ais.runtime.text import printable

    if not rows:
        print("no dead letters: the trainer has refused nothing")
        return
    table = Table(*rows[0], box=None)
    for row in rows:  # rich takes Text as it is; in a string, [/x] would be markup
        table.add_row(*(Text("-" if value is None else printable(str(value))) for value in row.values()))
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def _time(letter: DeadLetter) -> str | None:
    return letter.time.isoformat(timespec="seconds") if letter.time else None


def _described(letter: DeadLetter) -> Iterator[str]:
    """Lines for a person. They hold whatever a peer has written: print them escaped."""
    yield f"id          {letter.letter_id}"
    yield f"discarded   {_time(letter) or 'at an unknown time'}, was queue entry {letter.entry_id}"
    yield f"ordinal     {letter.ordinal}"
    yield f"reason      {letter.reason}"
    yield f"size        {len(letter.payload)} bytes"
    message = letter.message()
    if message is None or not message.ByteSize():
        head = letter.payload[:HEAD_BYTES].hex(" ", 4)
        yield f"content     is not a ScoredGroup message; it begins with {head or 'nothing'}"
        return
    yield f"record      {letter.fault() or 'is well formed'}"
    yield f"group       {message.group_id!r}, prompt {message.prompt_id!r}, task {message.task!r}"
    yield f"            ordinal {message.ordinal}, attempt {message.attempt}, layout {message.schema_version}"
    yield f"prompt      {len(message.prompt_token_ids) // 4} tokens"
    yield f"rewards     {', '.join(f'{reward:g}' for reward in message.rewards) or 'none'}"
    for one in message.trajectories:
        spans = ", ".join(f"version {span.version}: [{span.begin}, {span.end})" for span in one.spans)
        turns = f" in {len(one.turns)} turns" if one.turns else ""
        if anew := sum(turn.begins_anew for turn in one.turns):
            turns += f", {anew} of them begun anew"
        yield f"trajectory  {one.trajectory_id!r}: {len(one.token_ids) // 4} tokens{turns}; {spans or 'no spans'}"
        formats = f"{one.precision.weights}/{one.precision.granularity} x {one.precision.activations}"
        yield f"            replica {one.replica_id!r}, {one.engine} {one.engine_version}, {formats}, " + (
            f"temperature {one.sampling.temperature:g}"
        )


def _with_letters(
    run: str | None,
    config: Path | None,
    overrides: list[str] | None,
    work: Callable[[DeadLetters, Settings], Awaitable[int]],
) -> None:
    """Finds the run and its server, does the work, and exits with its code."""
    from redis.exceptions import RedisError

    from ais.runtime.network.redis import RedisUnreachableError
    from ais.runtime.process import UnavailableError

    settings = _settings_of(run, config, overrides or [])

    async def main() -> int:
        async with _letters(settings) as letters:
            return await work(letters, settings)

    try:
        sys.exit(asyncio.run(main()))
    except (RedisUnreachableError, UnavailableError) as error:
        _fail(str(error), EXIT_UNAVAILABLE)
    except RedisError as error:
        _fail(f"Redis at {settings.redis.url} does not do it: {error}", EXIT_UNAVAILABLE)


def _settings_of(run: str | None, config: Path | None, overrides: list[str]) -> Settings:
    """The settings of the run, with the address of the server that `ais run` has started for it, if it has."""
    from ais.launcher.directory.run_directory import RunDirectory
    from ais.launcher.directory.server import reachable
    from ais.settings import load

    if run is not None:
        directory = RunDirectory(Path(run) if Path(run).is_dir() else load(config, overrides).run.directory / run)
        if not directory.config.is_file():
            _fail(f"there is no run in {directory.path}: expected its config.toml", EXIT_UNAVAILABLE)
        settings = load(directory.config, [*overrides, f"run.name={directory.name}"])
    else:
        settings = load(config, overrides)
        directory = RunDirectory(settings.run.path)
    if (redis := reachable(settings.redis, directory)) is None:
        _fail(
            f"run {directory.name!r} has no Redis now: redis.url is not set, and no `ais run` keeps a server for it "
            f"(its data would be in {directory.valkey}). Set redis.url to a server that has the run's keys.",
            EXIT_UNAVAILABLE,
        )
    return settings.model_copy(update={"redis": redis})


@asynccontextmanager
async def _letters(settings: Settings) -> AsyncIterator[DeadLetters]:
    from ais.contracts.dead_letters import DeadLetters
    from ais.contracts.keys import Keys
    from ais.runtime.network.redis import connect

    redis = await connect(settings.redis)
    try:
        yield DeadLetters(redis, Keys(settings.run.name))
    finally:
        await redis.aclose()


def _check_id(letter_id: str) -> None:
    if not re.fullmatch(r"[0-9]{1,20}-[0-9]{1,20}", letter_id):
        _fail(f"{letter_id!r} is not the id of a dead letter; `ais deadletter list` shows them", EXIT_SETTINGS)


def _unknown(letter_id: str) -> int:
    print(f"ais: {letter_id}: {_OUTCOMES['unknown']}", file=sys.stderr)
    return EXIT_FAILED


def _fail(message: str, code: int) -> NoReturn:
    print(f"ais: {message}", file=sys.stderr)
    sys.exit(code)
