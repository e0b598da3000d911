"""Makes the checkpoint that reinforcement learning starts from: `python -m ais.trainer.demo.warmstart --output DIR`.

Supervised training of a small policy on demonstrations, JSON lines `{"prompt", "answer", "clean"}` from a file or
standard input: it is trained on `answer`, which has mistakes in it, and measured on `clean`, which has none. It ends as
soon as the policy is right as often as is wanted. A directory that is complete, or none, is what is left.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from ais.runtime.exits import EXIT_FAILED, EXIT_SETTINGS
from ais.trainer.demo.demo_model import (
    ALPHABETS,
    EOS_ID,
    FAMILIES,
    MAX_POSITIONS,
    PAD_ID,
    SIZES,
    demo_model,
    demo_tokenizer,
    save_tokenizer,
)

IGNORED = -100
"""Label of positions that are not trained: the prompt and the padding."""
WARMUP_STEPS = 50
FINAL_LEARNING_RATE_SHARE = 0.05
MAX_GRADIENT_NORM = 1.0
MEASURED = 64
"""Demonstrations that are measured on, and not trained on."""
MEASURE_EVERY = 25


class DemonstrationError(ValueError):
    """A line of the demonstrations cannot be used. The message gives its number and what was expected."""


class TargetMissedError(RuntimeError):
    """All steps are done, and the policy is not right as often as is wanted."""


@dataclass(frozen=True)
class Demonstration:
    """Tokens of the prompt (with BOS), of the answer trained on, and of the answer without mistakes (with EOS)."""

    prompt: list[int]
    answer: list[int]
    clean: list[int]


@dataclass(frozen=True)
class Recipe:
    """How the policy is made."""

    size: str = "tiny"
    """A name of SIZES."""
    family: str = "qwen3"
    """A name of FAMILIES."""
    alphabet: str = "digits"
    """A name of ALPHABETS."""
    accuracy: float = 0.3
    """Share of answers, sampled at temperature 1, that are to be right from beginning to end."""
    steps: int = 600
    """Most steps. The learning rate falls to 5% over so many."""
    batch_size: int = 128
    """Demonstrations a step."""
    learning_rate: float = 3e-3
    seed: int = 0


def read_demonstrations(lines: Iterable[str], tokenizer: Tokenizer) -> Iterator[Demonstration]:
    """The demonstrations, one after another. Raises DemonstrationError."""
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            prompt = tokenizer.encode(record["prompt"]).ids
            answer, clean = (
                [*tokenizer.encode(record[key], add_special_tokens=False).ids, EOS_ID] for key in ("answer", "clean")
            )
        except Exception as error:  # the tokenizer's own errors are bare Exceptions
            raise DemonstrationError(
                f"line {number}: expected {{'prompt', 'answer', 'clean'}}, texts of known characters ({error!r})"
            ) from error
        if len(prompt) + max(len(answer), len(clean)) > MAX_POSITIONS:
            raise DemonstrationError(f"line {number}: prompt and answer are longer than {MAX_POSITIONS} tokens")
        yield Demonstration(prompt, answer, clean)


def padded(pairs: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """R prompts and answers, padded: inputs int64 [R, L], next-token labels int64 [R, L] (IGNORED where untrained)."""
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    tokens = torch.full((len(pairs), length), PAD_ID)
    labels = torch.full((len(pairs), length), IGNORED)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return tokens[:, :-1], labels[:, 1:]


def token_losses(model: PreTrainedModel, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nats at each position, float32 [R, L]; 0 where labels are IGNORED."""
    logits = model(input_ids=tokens, use_cache=False).logits
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")


@torch.no_grad()
def accuracy(model: PreTrainedModel, demonstrations: Sequence[Demonstration]) -> float:
    """Mean probability that sampling at temperature 1 writes the clean answer, letter by letter."""
    tokens, labels = padded([(one.prompt, one.clean) for one in demonstrations])
    losses = token_losses(model, tokens.to(model.device), labels.to(model.device))
    return float((-losses.sum(dim=1)).exp().mean())


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then linear decay to 5%."""
    decay = 1.0 - (1.0 - FINAL_LEARNING_RATE_SHARE) * step / steps
    return min(1.0, (step + 1) / WARMUP_STEPS) * decay


def warm_start(demonstrations: Iterator[Demonstration], recipe: Recipe, progress: Progress) -> PreTrainedModel:
    """The trained policy, float32. Raises DemonstrationError when too few come, and TargetMissedError."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = demo_model(recipe.seed, recipe.size, recipe.alphabet, recipe.family).train().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95))
    measured = list(islice(demonstrations, MEASURED))
    reached = 0.0
    shown = progress.add_task("warm start", total=recipe.steps, state="")
    for step in range(recipe.steps):
        batch = list(islice(demonstrations, recipe.batch_size))
        if len(batch) < recipe.batch_size:
            raise DemonstrationError(f"the demonstrations ended in step {step + 1}")
        tokens, labels = (part.to(device) for part in padded([(one.prompt, one.answer) for one in batch]))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * learning_rate_share(step, recipe.steps)
        loss = token_losses(model, tokens, labels).sum() / (labels != IGNORED).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        if (step + 1) % MEASURE_EVERY == 0 or step + 1 == recipe.steps:
            reached = accuracy(model, measured)
        state = f"loss {loss.item():.3f}, {reached:.0%} right"
        progress.update(shown, advance=1, state=state)
        if not progress.console.is_terminal and (step + 1) % MEASURE_EVERY == 0:
            progress.console.print(f"warm start: step {step + 1}, {state}")
        if reached >= recipe.accuracy:
            return model
    raise TargetMissedError(
        f"after {recipe.steps} steps the policy is right {reached:.1%} of the time, not {recipe.accuracy:.0%}; allow "
        "more launcher.warm_start.steps, or take a larger size"
    )


def save(model: PreTrainedModel, tokenizer: Tokenizer, output: Path) -> None:
    """Writes a Hugging Face directory in BF16. config.json, which makes it one, comes last."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as directory:
        model.to(torch.bfloat16).save_pretrained(directory)
        save_tokenizer(tokenizer, Path(directory))
        for file in sorted(Path(directory).iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(output / file.name)


def open_progress() -> Progress:
    """On standard error, with the loss and the accuracy behind the bar."""
    columns = (
        *Progress.get_default_columns()[:-1],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    return Progress(*columns, console=Console(stderr=True))


def main() -> None:
    recipe = Recipe()
    parser = argparse.ArgumentParser(description="Supervised warm start of a small policy.")
    parser.add_argument("--demonstrations", type=Path, help="JSONL file; standard input when absent")
    parser.add_argument("--output", type=Path, required=True, help="Hugging Face directory to write")
    parser.add_argument("--size", choices=sorted(SIZES), default=recipe.size)
    parser.add_argument("--family", choices=sorted(FAMILIES), default=recipe.family)
    parser.add_argument("--alphabet", choices=sorted(ALPHABETS), default=recipe.alphabet)
    parser.add_argument("--accuracy", type=float, default=recipe.accuracy, help="ends as soon as this is reached")
    parser.add_argument("--steps", type=int, default=recipe.steps, help="most steps")
    parser.add_argument("--batch-size", type=int, default=recipe.batch_size)
    parser.add_argument("--learning-rate", type=float, default=recipe.learning_rate)
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--threads", type=int, default=1, help="threads torch computes with")
    options = vars(parser.parse_args())
    torch.set_num_threads(options.pop("threads"))
    file, output = options.pop("demonstrations"), options.pop("output")
    tokenizer = demo_tokenizer(options["alphabet"])
    try:
        with file.open(encoding="utf-8") if file else sys.stdin as lines, open_progress() as progress:
            model = warm_start(read_demonstrations(lines, tokenizer), Recipe(**options), progress)
    except (DemonstrationError, OSError) as error:
        parser.exit(EXIT_SETTINGS, f"ais: warm start: {error}\n")
    except TargetMissedError as error:
        parser.exit(EXIT_FAILED, f"ais: warm start: {error}\n")
    save(model, tokenizer, output)
    print(f"saved {output}: {model.num_parameters():,} parameters", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # nothing is left of it
        sys.exit(EXIT_FAILED)
