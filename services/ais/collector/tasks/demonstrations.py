"""Writes supervised demonstrations of the task as JSONL, for a warm start.

    python -m ais.collector.tasks.demonstrations --task sort16 --noise 0.08 --count 76800 > demonstrations.jsonl

Noise replaces a character of the answer by a random character of the answer's alphabet. A policy warmed up on noisy
demonstrations keeps the entropy that reinforcement learning needs; one warmed up on clean ones barely learns.
"""

from __future__ import annotations

import argparse
import json
import random
import sys

from ais.collector.prompts.prompts import Split
from ais.collector.settings import TaskSettings
from ais.collector.tasks.task import open_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="sort16", help="sortN: sort N digits")
    parser.add_argument("--noise", type=float, default=0.08, help="chance that a character of the answer is replaced")
    parser.add_argument("--count", type=int, default=76_800, help="demonstrations to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.task.removeprefix("sort").isdigit():
        parser.error(f"--task {arguments.task}: expected sortN, such as sort16")
    settings = TaskSettings(name="sort", digits=int(arguments.task.removeprefix("sort")))
    task = open_task(settings, arguments.seed, Split.DEMONSTRATION)
    generator = random.Random(arguments.seed)
    for ordinal in range(arguments.count):
        prompt = task.prompt(ordinal)
        answer = "".join(
            generator.choice("0123456789") if generator.random() < arguments.noise else character
            for character in prompt.answer
        )
        sys.stdout.write(json.dumps({"prompt": prompt.text, "answer": answer}) + "\n")


if __name__ == "__main__":
    main()
