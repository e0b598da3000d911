"""Scores on held-out prompts: those of checkpoints after training, and those made beside it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ais.contracts.sampling import is_bf16

NORMAL_95 = 1.96
"""Half the width of a 95% interval, in standard errors."""

Score = dict[str, Any]


def of_checkpoint(record: Mapping[str, Any]) -> Score:
    """A line of evaluations.jsonl as the page shows it. Raises KeyError for what is none."""
    return {
        "step": record["step"],
        "policy": "BF16 policy" if is_bf16(record["precision"]) else "rollout policy",
        "source": "all",
        "reward": record["reward_mean"],
        "interval": NORMAL_95 * record["reward_standard_error"],
        "prompts": record["prompts"],
        "samples": 1,
        "passed": {},
        "when": "after training",
    }


def of_held_out(record: Mapping[str, Any]) -> Score:
    """The same of a line of held_out.jsonl."""
    return {
        "step": record["step"],
        "policy": "BF16 policy" if is_bf16(record["precision"]) else "rollout policy",
        "source": record["source"],
        "reward": record["reward_mean"],
        "interval": record["reward_interval"],
        "prompts": record["prompts"],
        "samples": record["samples"],
        "passed": {key: value for key, value in record.items() if key.startswith("pass@") and "_" not in key},
        "when": "while training",
    }
