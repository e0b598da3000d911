"""`python -m ais.collector.preview -c FILE`: the prompts of each source as the policy will read them.

Prints for each source how many prompts it trains on, how many it keeps for evaluation and how many are too long. Then
come the first ones of the run: id, tokens, the rendered prompt with its special tokens, and what verifiers get.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from ais.collector.exercise import open_prompts
from ais.collector.prompts.prompts import Prompt, Split, TaskError, TaskSource
from ais.collector.prompts.tokenizer import PolicyTokenizer, run_without_torch
from ais.collector.settings import CollectorProcessSettings, SourceSettings
from ais.runtime.exits import EXIT_PIPE_CLOSED, EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.output import discard_output, print_anything
from ais.runtime.process import UnavailableError
from ais.runtime.reading import read_settings
from ais.runtime.settings import SettingsError

SHOWN = 4000
"""Characters of a prompt that are shown."""


def preview(settings: CollectorProcessSettings, prompts: int) -> Iterator[str]:
    """The lines to print. Raises UnavailableError, and TaskError for a row that cannot be read again."""
    (train, held_out), tokenizer = open_prompts(settings, (Split.TRAIN, Split.HELD_OUT))
    trained_on = {source.name: source for source in train.sources}
    for source, evaluated in zip(settings.collector.task.each_source, held_out.sources, strict=True):
        drawn = trained_on.get(evaluated.name)
        yield f"{evaluated.name}: {_counts(source, drawn, evaluated)}"
        shown = drawn or evaluated
        for ordinal in range(min(prompts, shown.distinct or prompts)):
            yield from _prompt(shown.prompt(ordinal), tokenizer)


def _counts(settings: SourceSettings, train: TaskSource | None, held_out: TaskSource) -> str:
    environment = settings.effective_environment
    judges = ", ".join(component.label for component in settings.effective_reward) or "its environment"
    kind = f"{settings.name}, judged by {judges}"
    if environment is not None:
        kind += f", in up to {environment.turns} turns with {environment.name}"
    parts = [
        "none trained on" if train is None else f"{_number(train)} to train on",
        f"{_number(held_out)} held out",
    ]
    too_long = held_out.too_long + (0 if train is None else train.too_long)
    if too_long:
        parts.append(f"{too_long:,} too long and left out")
    weight = getattr(settings, "weight", None)
    return "; ".join([kind, *([] if weight is None else [f"weight {weight:g}"]), *parts])


def _number(source: TaskSource) -> str:
    return "endless prompts" if source.distinct is None else f"{source.distinct:,} different prompts"


def _prompt(prompt: Prompt, tokenizer: PolicyTokenizer) -> Iterator[str]:
    token_ids = tokenizer.encode_prompt(prompt.question)
    rendered = tokenizer.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    cut = f"\n... ({len(rendered):,} characters)" if len(rendered) > SHOWN else ""
    yield f"\n  {prompt.prompt_id}, {len(token_ids)} tokens"
    yield from (f"  | {line}" for line in (rendered[:SHOWN] + cut).split("\n"))
    yield f"  answer: {prompt.answer!r}"
    if prompt.metadata:
        yield f"  metadata: {json.dumps(prompt.metadata, ensure_ascii=False)[:SHOWN]}"


def main() -> None:
    print_anything()
    run_without_torch()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--prompts", type=int, default=2, help="prompts of each source to show")
    arguments = parser.parse_args()
    try:
        settings = read_settings(CollectorProcessSettings, arguments.config, arguments.overrides, whole=False)
        for line in preview(settings, arguments.prompts):
            print(line, flush=True)
    except BrokenPipeError:  # whoever read our output has enough
        discard_output()
        sys.exit(EXIT_PIPE_CLOSED)
    except SettingsError as error:
        print(f"ais: {error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    except (UnavailableError, TaskError) as error:
        print(f"ais: {error}", file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)


if __name__ == "__main__":
    main()
