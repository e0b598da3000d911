"""`python -m ais.collector.check -c FILE`: whether the collector could start, said before anything else is started.

Reads the task's files, the tokenizer and its chat template, and compiles the verifier. Ends with 0, or with a message
on standard error and the exit code that the collector would have.
"""

from __future__ import annotations

import sys

from ais.collector.exercise import open_prompts
from ais.collector.prompts.prompts import Split, TaskError
from ais.collector.prompts.tokenizer import run_without_torch
from ais.collector.settings import CollectorProcessSettings
from ais.collector.tasks.verifiers import open_verifier
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.process import UnavailableError, service_arguments
from ais.runtime.reading import read_settings
from ais.runtime.settings import SettingsError


def main() -> None:
    run_without_torch()
    arguments = service_arguments(__doc__ or "")
    try:
        settings = read_settings(CollectorProcessSettings, arguments.config, arguments.overrides, whole=False)
        open_prompts(settings, (Split.TRAIN, Split.HELD_OUT))
        open_verifier(settings.collector.task)
    except SettingsError as error:
        print(f"ais: {error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    except (UnavailableError, TaskError) as error:
        print(f"ais: {error}", file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)


if __name__ == "__main__":
    main()
