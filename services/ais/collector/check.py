"""`python -m ais.collector.check -c FILE`: whether the collector could start, said before anything else is started.

Reads the task's files, the tokenizer and its chat template, and compiles the verifier. Ends with 0, or with a message
on standard error and the exit code that the collector would have.
"""

from __future__ import annotations

import asyncio
import sys

from ais.collector.exercise import open_prompts
from ais.collector.judging.judge import open_judge
from ais.collector.prompts.prompts import Split, TaskError
from ais.collector.prompts.tokenizer import run_without_torch
from ais.collector.settings import CollectorProcessSettings
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
        asyncio.run(_open_judge(settings))
    except SettingsError as error:
        print(f"ais: {error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    except (UnavailableError, TaskError) as error:
        print(f"ais: {error}", file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)


async def _open_judge(settings: CollectorProcessSettings) -> None:
    """With one worker: what one refuses, all do."""
    judging = settings.collector.judging.model_copy(update={"workers": 1})
    async with open_judge(settings.collector.model_copy(update={"judging": judging})):
        pass


if __name__ == "__main__":
    main()
