"""What is trained: an example of this project, and in which formats we roll it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
INT8 = {"weights": "int8", "granularity": "channel", "activations": "int8"}
BF16 = {"weights": "bf16", "activations": "bf16"}


@dataclass(frozen=True)
class Problem:
    """An example, and what is asked of its trainings unless the caller says otherwise."""

    config: Path
    precisions: Mapping[str, Mapping[str, str]]
    """What differs of `rollout.precision`, by contender of ours."""
    pattern: str | None
    """The last match in a response is compared with the answer; None: the response is."""
    steps: int
    reward: float | None
    """That is to be reached; None: steps alone are timed."""
    rounds: int
    seconds: float
    """For all trainings together."""


PROBLEMS: Mapping[str, Problem] = {
    "demo": Problem(
        config=EXAMPLES / "sort16" / "config.toml",
        precisions={
            "fp8": {"weights": "e4m3", "activations": "e4m3"},
            "bf16": BF16,
        },
        pattern=None,
        steps=150,
        reward=0.8,
        rounds=3,
        seconds=1500.0,
    ),
    "smollm2": Problem(
        config=EXAMPLES / "smollm2" / "config.toml",
        precisions={"int8": INT8, "bf16": BF16},
        pattern=r"-?\d+",
        steps=8,
        reward=None,
        rounds=1,
        seconds=2400.0,
    ),
}
