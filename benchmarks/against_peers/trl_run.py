"""Trains a problem with TRL's `GRPOTrainer`. Runs in the peers' environment and imports nothing of ours.

    python trl_run.py JOB.json

JOB.json is what `training.trl_job` makes. A line of JSON is written to its `log` at the end of each step: `time`, Unix
time, and `reward_mean`, over the step's batch.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class StepLog(TrainerCallback):  # type: ignore[misc]
    """Judges responses and writes each step."""

    def __init__(self, file: Path, pattern: str | None) -> None:
        self._file = file.open("w", encoding="utf-8")
        self._pattern = pattern
        self._mean = 0.0

    def exact(self, completions: list[str], answer: list[str], **_others: Any) -> list[float]:
        """1 for a response that is the answer and nothing else, or whose last match of the pattern is it, else 0."""
        rewards = [float(self._answered(text) == right) for text, right in zip(completions, answer, strict=True)]
        self._mean = sum(rewards) / len(rewards)
        return rewards

    def _answered(self, text: str) -> str | None:
        if self._pattern is None:
            return text
        matches: list[str] = re.findall(self._pattern, text)
        return matches[-1] if matches else None

    def on_step_end(self, _args: Any, _state: Any, _control: Any, **_others: Any) -> None:
        self._file.write(json.dumps({"time": time.time(), "reward_mean": self._mean}) + "\n")
        self._file.flush()


def prompts(pairs: list[tuple[str, str]]) -> Iterator[dict[str, str]]:
    for prompt, answer in pairs:
        yield {"prompt": prompt, "answer": answer}


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(job["threads"])
    home = Path(job["log"]).parent
    steps = StepLog(Path(job["log"]), job["pattern"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=job["learning_rate"], betas=tuple(job["betas"]), weight_decay=0.0, fused=True
    )
    warm_up = job["warmup_steps"]
    settings = GRPOConfig(
        output_dir=str(home / "trl"),
        use_cpu=True,
        bf16=job["bf16"],
        seed=job["seed"],
        max_steps=job["steps"],
        per_device_train_batch_size=job["groups"] * job["samples"],
        num_generations=job["samples"],
        max_completion_length=job["max_new_tokens"],
        temperature=1.0,
        max_grad_norm=job["max_grad_norm"],
        gradient_checkpointing=False,
        shuffle_dataset=False,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
    )
    GRPOTrainer(
        model=model,
        reward_funcs=steps.exact,
        args=settings,
        train_dataset=Dataset.from_generator(prompts, gen_kwargs={"pairs": job["prompts"]}, cache_dir=str(home)),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up))),
        callbacks=[steps],
    ).train()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
