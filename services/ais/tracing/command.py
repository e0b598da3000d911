"""`ais trace RUN GROUP`: from a run's directory and its Redis to what is printed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.directory.server import reachable
from ais.runtime.reading import read_settings
from ais.settings import Settings
from ais.tracing.queue import look
from ais.tracing.search import Trace, Wanted, trained, under_way
from ais.tracing.showing import as_json, as_text


def show_trace(directory: RunDirectory, group: str, overrides: Sequence[str], *, json_wanted: bool) -> None:
    """Prints it. Raises NoGroupIdError, UnknownGroupError."""
    trace = trace_of(directory, group, overrides)
    if json_wanted:
        print(json.dumps(as_json(trace)))
    else:
        for line in as_text(trace):
            print(line)


def trace_of(directory: RunDirectory, group: str, overrides: Sequence[str] = ()) -> Trace:
    """`group`: its id, or an ordinal. Raises NoGroupIdError, UnknownGroupError."""
    chosen = [*overrides, f"run.name={directory.name}"]
    settings = read_settings(Settings, directory.config, chosen, earlier_release=True)
    wanted = Wanted.of(group, settings.run.name)
    if (found := trained(directory, settings.run, wanted)) is not None:
        return found
    redis = reachable(settings.redis, directory)
    if redis is None:
        return under_way(directory, settings.run, wanted, "the run has no Redis now (`ais resume` goes on with it)")
    batch = wanted.ordinal // settings.run.groups_per_batch
    begin = batch * settings.run.groups_per_batch
    seen = range(begin, begin + settings.run.groups_per_batch)
    live = asyncio.run(look(redis, settings.run.name, wanted.ordinal, seen))
    # It may have been trained while the server was asked.
    return trained(directory, settings.run, wanted) or under_way(directory, settings.run, wanted, live)
