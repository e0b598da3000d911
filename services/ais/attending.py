"""What `ais prepare` and `ais conclude` do: the beginning and the end of a run whose services somebody else starts.

Containers are started by an engine, so nothing in them does what `ais run` does before and after training. These two
commands do, each with an exit code: the directory of the run is then what `ais run` would have left.
"""

from __future__ import annotations

import asyncio
import sys

from ais.launcher.directory.record import read_record, record_of
from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.processes.signals import run_cancellable
from ais.resuming import check_resumable
from ais.running import FAILURES, checked_again, drive, is_trained, tell, write_inputs
from ais.runtime.process import UnavailableError
from ais.runtime.reading import read_settings
from ais.settings import Settings
from ais.warming import make_missing_model

POLL_SECONDS = 1.0
"""How often the end of training is looked for."""


def prepare(settings: Settings) -> int:
    """Makes a run ready for its services: the policy it starts from, and its directory with the settings in it.

    A run that is there already may go on with these settings, if neither they nor its data make it another run. A
    refusal leaves everything as it was.
    """
    directory = RunDirectory(settings.run.path)
    try:
        if directory.config.is_file():
            before = read_settings(Settings, directory.config, environment={}, earlier_release=True)
            check_resumable(before, settings)
        if code := make_missing_model(settings):
            return code
        data = checked_again(settings, directory)
        _make(directory)
        write_inputs(settings, data, directory)
        if read_record(directory.record) is None:
            record_of(directory.name).write(directory.record)
    except FAILURES as error:
        return tell(error)
    print(f"{directory.path} is ready: {settings.run.steps} steps of {settings.run.model}")
    return 0


def conclude(settings: Settings) -> int:
    """Waits until training has come to its end, evaluates the checkpoints and writes the report."""
    directory = RunDirectory(settings.run.path)
    if not directory.config.is_file():
        return tell(UnavailableError(f"there is no run in {directory.path}: `ais prepare` begins one"))

    async def trained() -> int:
        print(f"waiting for the end of {directory.path}: {settings.run.steps} steps", file=sys.stderr)
        while True:
            if is_trained(directory, settings):
                return 0
            await asyncio.sleep(POLL_SECONDS)

    return run_cancellable(trained()) or drive(directory, lambda: settings)


def _make(directory: RunDirectory) -> None:
    """Only its owner may look into it: a password may be in it."""
    try:
        directory.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"run.directory: {directory.path} cannot be made: {error.strerror}") from error
