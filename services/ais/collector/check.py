"""Reads what prompts are made of, and says what is wrong with it: `python -m ais.collector.check -c FILE`.

`ais run` calls it before it starts anything: task files, verifier, tokenizer and chat template, for training and for
evaluation. Exit codes as those of the collector (`ais.runtime.exits`), with one line on standard error.
"""

from __future__ import annotations

import sys

from ais.collector.prompts.prompts import Split
from ais.collector.service import open_exercise
from ais.collector.settings import CollectorProcessSettings
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.process import UnavailableError, service_arguments
from ais.runtime.reading import read_settings
from ais.runtime.settings import SettingsError


def main() -> None:
    arguments = service_arguments(__doc__ or "")
    try:
        settings = read_settings(CollectorProcessSettings, arguments.config, arguments.overrides, whole=False)
        for split in (Split.TRAIN, Split.HELD_OUT):
            open_exercise(settings, split)
    except SettingsError as error:
        _end(error, EXIT_SETTINGS)
    except UnavailableError as error:
        _end(error, EXIT_UNAVAILABLE)


def _end(error: Exception, code: int) -> None:
    print(f"ais: {error}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
