"""Makes the checkpoint that reinforcement learning starts from: `python -m ais.trainer.demo.warmstart --output DIR`.

Supervised training of the demo policy on demonstrations, JSON lines `{"prompt": ..., "answer": ...}` from a file or
standard input. Demonstrations with mistakes in them are wanted: a policy trained on clean ones has no entropy left to
explore with, and GRPO hardly improves it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from ais.runtime.exits import EXIT_SETTINGS
from ais.trainer.demo.demo_model import EOS_ID, PAD_ID, demo_model, demo_tokenizer, save_tokenizer

IGNORED = -100
"""Label of positions that are not trained: the prompt and the padding."""
WARMUP_STEPS = 50
FINAL_LEARNING_RATE_SHARE = 0.05
MAX_GRADIENT_NORM = 1.0


class DemonstrationError(ValueError):
    """A line of the demonstrations cannot be used. The message gives its number and what was expected."""


def read_demonstrations(lines: TextIO, tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """Prompt tokens (with BOS) and answer tokens (with EOS) of each line. Raises DemonstrationError."""
    demonstrations = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            prompt = tokenizer.encode(record["prompt"]).ids
            answer = [*tokenizer.encode(record["answer"], add_special_tokens=False).ids, EOS_ID]
        except Exception as error:  # the tokenizer's own errors are bare Exceptions
            raise DemonstrationError(
                f"line {number}: expected {{'prompt': text, 'answer': text}} in known characters ({error!r})"
            ) from error
        demonstrations.append((prompt, answer))
    if not demonstrations:
        raise DemonstrationError("no demonstrations came")
    return demonstrations


def batches(
    demonstrations: Sequence[tuple[list[int], list[int]]], size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless shuffled passes: inputs int64 [size, L], next-token labels int64 [size, L] (IGNORED where untrained)."""
    order = random.Random(seed)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += order.sample(range(len(demonstrations)), len(demonstrations))
        chosen, queue = [demonstrations[index] for index in queue[:size]], queue[size:]
        length = max(len(prompt) + len(answer) for prompt, answer in chosen)
        tokens = torch.full((size, length), PAD_ID)
        labels = torch.full((size, length), IGNORED)
        for row, (prompt, answer) in enumerate(chosen):
            end = len(prompt) + len(answer)
            tokens[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
        yield tokens[:, :-1], labels[:, 1:]


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then linear decay to 5%."""
    decay = 1.0 - (1.0 - FINAL_LEARNING_RATE_SHARE) * step / steps
    return min(1.0, (step + 1) / WARMUP_STEPS) * decay


def warm_start(
    demonstrations: Sequence[tuple[list[int], list[int]]],
    tokenizer: Tokenizer,
    output: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> float:
    """Trains and saves a Hugging Face directory in BF16. Returns the last step's loss, nats a token."""
    model = demo_model(seed).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    loss = torch.zeros(())
    columns = (
        *Progress.get_default_columns()[:-1],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("warm start", total=steps, loss="")
        source = batches(demonstrations, batch_size, seed)
        for step, (tokens, labels) in zip(range(steps), source, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * learning_rate_share(step, steps)
            logits = model(input_ids=tokens, use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            progress.update(task, advance=1, loss=f"loss {loss.item():.3f}")
    model.to(torch.bfloat16).save_pretrained(output)
    save_tokenizer(tokenizer, output)
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Supervised warm start of the demo policy.")
    parser.add_argument("--demonstrations", type=Path, help="JSONL file; standard input when absent")
    parser.add_argument("--output", type=Path, required=True, help="Hugging Face directory to write")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads torch computes with")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = demo_tokenizer()
    try:
        if arguments.demonstrations is None:
            demonstrations = read_demonstrations(sys.stdin, tokenizer)
        else:
            with arguments.demonstrations.open(encoding="utf-8") as lines:
                demonstrations = read_demonstrations(lines, tokenizer)
    except (DemonstrationError, OSError) as error:
        parser.exit(EXIT_SETTINGS, f"warmstart: {error}\n")
    loss = warm_start(
        demonstrations,
        tokenizer,
        arguments.output,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    print(f"saved {arguments.output}: loss {loss:.3f} after {arguments.steps} steps")


if __name__ == "__main__":
    main()
