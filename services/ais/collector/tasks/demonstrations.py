"""Writes demonstrations of a run's task, without end, as JSON lines: `{"prompt", "answer", "clean"}`.

    python -m ais.collector.tasks.demonstrations -c FILE --accuracy 0.3 | head -n 1000

`answer` is `clean` with mistakes: some digits are replaced by random ones. A policy warmed up on clean demonstrations
alone has no entropy left, and reinforcement learning barely moves it. So many are wrong that a policy which writes like
them is right somewhat more often than `--accuracy`. For `guess_number` and `calculations` a line is one turn: `prompt`
is all that was said before it, and right is the guess that halves what is left, the call for the calculation that is
asked for, or the number that the calculator gave.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from ais.collector.prompts.prompts import Split, TaskSource
from ais.collector.settings import CollectorProcessSettings, TaskSettings
from ais.collector.tasks.calculations import CalculationsTask, sessions
from ais.collector.tasks.guess_number import games
from ais.collector.tasks.task import open_task
from ais.runtime.exits import EXIT_SETTINGS
from ais.runtime.output import discard_output
from ais.runtime.reading import read_settings
from ais.runtime.settings import SettingsError

MADE = ("sort", "sort_swaps", "sum_chain", "guess_number", "calculations")
"""Tasks that there are demonstrations of without end."""
LOOKED_AT = 64
"""Answers whose mean length is taken for that of all."""
OWN_MISTAKES = 0.5
"""Share of its mistakes that the policy is left to make by itself, being no perfect writer."""
DIGITS = "0123456789"
EOS = "$"
"""What ends a turn, in the small policies' own alphabet."""


def noise(task: TaskSource, accuracy: float) -> float:
    """Chance that a digit is replaced, for answers that are whole as often as accuracy ** (1 - OWN_MISTAKES).

    A random digit is the right one once in ten times.
    """
    digits = mean(sum(map(str.isdigit, task.prompt(ordinal).answer)) for ordinal in range(LOOKED_AT))
    return float((1.0 - accuracy ** ((1.0 - OWN_MISTAKES) / digits)) / 0.9)


def with_mistakes(answer: str, share: float, generator: random.Random) -> str:
    """`answer` with `share` of its digits replaced by random ones."""
    return "".join(
        generator.choice(DIGITS) if character in DIGITS and generator.random() < share else character
        for character in answer
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--accuracy", type=float, default=0.3, help="of the policy that is to be made")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        settings = read_settings(CollectorProcessSettings, arguments.config, arguments.overrides, whole=False)
        if settings.collector.task.name not in MADE:
            raise SettingsError(
                f"there are no demonstrations of collector.task.name = {settings.collector.task.name}; there are of "
                f"{', '.join(MADE)}"
            )
    except SettingsError as error:
        parser.exit(EXIT_SETTINGS, f"ais: {error}\n")
    generator = random.Random(arguments.seed)
    for prompt, written, clean in _demonstrated(settings.collector.task, arguments.accuracy, arguments.seed, generator):
        print(json.dumps({"prompt": prompt, "answer": written, "clean": clean}))


def _demonstrated(
    settings: TaskSettings, accuracy: float, seed: int, generator: random.Random
) -> Iterator[tuple[str, str, str]]:
    """What the policy reads, what it is to write, and what would be right."""
    if settings.name == "guess_number":
        yield from games(settings.highest, accuracy ** (1.0 - OWN_MISTAKES), generator, EOS)
    task = open_task(settings, seed, Split.DEMONSTRATION)
    if isinstance(task, CalculationsTask):
        yield from sessions(task, accuracy ** (1.0 - OWN_MISTAKES), generator, EOS)
    share = noise(task, accuracy)
    for prompt in map(task.prompt, itertools.count()):
        yield prompt.text, with_mistakes(prompt.answer, share, generator), prompt.answer


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):  # whoever reads them has enough, or everything is to end
        discard_output()
