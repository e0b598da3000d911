"""`python -m ais.collector.check -c FILE`: whether the collector could start, said before anything else is started.

Reads the task's files, the tokenizer and its chat template, compiles the verifier, and tries the environment.
Ends with 0, or with a message on standard error and the exit code that the collector would have.

--data FILE: writes which data files there are, with digests. Where FILE is there already, they must be those in it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from ais.collector.exercise import open_exercise
from ais.collector.prompts.prompts import Split, TaskError
from ais.collector.prompts.tokenizer import run_without_torch
from ais.collector.settings import CollectorProcessSettings, TaskSettings
from ais.collector.tasks.tables.identity import DataFiles, changes, data_files
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.files import replace_file
from ais.runtime.process import UnavailableError, service_parser
from ais.runtime.reading import read_settings
from ais.runtime.settings import SettingsError


def main() -> None:
    run_without_torch()
    arguments = _arguments()
    try:
        settings = read_settings(CollectorProcessSettings, arguments.config, arguments.overrides, whole=False)
        if arguments.data is not None:
            _same_data(settings.collector.task, arguments.data)
        asyncio.run(_open(settings))
    except SettingsError as error:
        print(f"ais: {error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    except (UnavailableError, TaskError) as error:
        print(f"ais: {error}", file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)


def _arguments() -> argparse.Namespace:
    parser = service_parser(__doc__ or "")
    parser.add_argument("--data", type=Path, metavar="FILE")
    return parser.parse_args()


def _same_data(task: TaskSettings, file: Path) -> None:
    """Raises SettingsError where the data files are others than those that `file` names, which it names afterwards."""
    now = data_files(task)
    try:
        before = DataFiles.validate_json(file.read_bytes()) if file.exists() else now
    except ValueError as error:
        raise UnavailableError(f"data.json of the run cannot be read, which says what data it has: {error}") from None
    if problems := changes(before, now):
        raise SettingsError(
            "the run cannot go on with other data, because the order of its prompts follows from it:\n  "
            + "\n  ".join(problems)
            + "\nNothing was changed. Put the data back as it was, or begin another run with this one's policy: "
            "`ais run --set run.model=RUN/checkpoints/STEP`."
        )
    replace_file(file, DataFiles.dump_json(now, indent=1).decode() + "\n")


async def _open(settings: CollectorProcessSettings) -> None:
    """With one worker: what one refuses, all do."""
    judging = settings.collector.judging.model_copy(update={"workers": 1})
    collector = settings.collector.model_copy(update={"judging": judging})
    async with open_exercise(settings.model_copy(update={"collector": collector}), Split.TRAIN):
        pass


if __name__ == "__main__":
    main()
