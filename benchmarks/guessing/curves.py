"""What the runs have come to, recorded, and the table of them in docs/environments.md."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks" / "results" / "guess_number" / "curves.jsonl"
DOCUMENT = ROOT / "docs" / "environments.md"
BLOCK = re.compile(r"(<!-- curves -->\n).*?(\n<!-- /curves -->)", re.DOTALL)
WINDOW = 10
"""Steps whose mean reward is told."""

Way = Literal["environment", "program"]
WAYS: tuple[Way, ...] = get_args(Way)


class Curve(BaseModel):
    """One run."""

    way: Way
    """Who played its episodes."""
    seed: int
    machine: str
    episodes: int
    """In each step."""
    rewards: list[float]
    """Mean of each step."""
    tokens: list[int]
    """Sampled in each step."""
    seconds: float
    """What training took."""
    held_out: dict[str, list[tuple[int, float, float]]]
    """By precision: step, mean reward, standard error."""
    first_step: list[str]
    """What was said in the first step's episodes, behind the ordinals of their prompts."""

    def windows(self) -> list[float]:
        """Mean reward of one `WINDOW` of steps after another."""
        return [fmean(self.rewards[at : at + WINDOW]) for at in range(0, len(self.rewards), WINDOW)]


def curve_of(way: Way, seed: int, directory: Path) -> Curve:
    """The curve of a finished run."""
    steps, samples = _lines(directory / "steps.jsonl"), _lines(directory / "samples.jsonl")
    held_out: dict[str, list[tuple[int, float, float]]] = {}
    for one in _lines(directory / "evaluations.jsonl"):
        score = (one["step"], one["reward_mean"], one["reward_standard_error"])
        held_out.setdefault(one["precision"], []).append(score)
    record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    first = [one for one in samples if one["step"] == steps[0]["step"]]
    return Curve(
        way=way,
        seed=seed,
        machine=record["machine"],
        episodes=len(first),
        rewards=[one["reward_mean"] for one in steps],
        tokens=[one["tokens"] for one in steps],
        seconds=record["training_seconds"],
        held_out={precision: sorted(scores) for precision, scores in held_out.items()},
        first_step=sorted(f"{one['ordinal']}: {one['response']}" for one in first),
    )


def recorded(file: Path = RECORDS) -> list[Curve]:
    """The curves of a file; none where it is not there."""
    return [Curve.model_validate(one) for one in _lines(file)]


def standard_error(one: Curve, other: Curve, window: int) -> float:
    """That of the difference between the means of a window of steps, had all episodes been drawn independently.

    Rewards are 0 or 1.
    """
    episodes = one.episodes * min(WINDOW, len(one.rewards) - window * WINDOW)
    return math.sqrt(sum(mean * (1 - mean) / episodes for mean in (one.windows()[window], other.windows()[window])))


def table(curves: Sequence[Curve]) -> list[str]:
    """Lines of a Markdown table: mean rewards over windows of steps, of each seed both ways, and their difference."""
    by_seed: dict[int, Mapping[Way, Curve]] = {}
    for curve in curves:
        by_seed[curve.seed] = {**by_seed.get(curve.seed, {}), curve.way: curve}
    pairs = {seed: (ways["environment"], ways["program"]) for seed, ways in by_seed.items() if len(ways) == 2}
    heads = [f"seed {seed}: environment | program | difference" for seed in pairs]
    lines = ["| steps | " + " | ".join(heads) + " |", "|---" * (1 + 3 * len(pairs)) + "|"]
    for window in range(min((len(one.windows()) for pair in pairs.values() for one in pair), default=0)):
        cells = [f"{window * WINDOW + 1} to {(window + 1) * WINDOW}"]
        for one, other in pairs.values():
            ours, theirs = one.windows()[window], other.windows()[window]
            error = standard_error(one, other, window)
            cells += [f"{ours:.3f}", f"{theirs:.3f}", f"{theirs - ours:+.3f} ± {error:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def filled(text: str, curves: Sequence[Curve]) -> str:
    """The document with the table of these curves."""
    return BLOCK.sub(lambda block: block[1] + "\n".join(table(curves)) + block[2], text)


def _lines(file: Path) -> list[dict[str, Any]]:
    """None of a file that is not there."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8"), recorded()), encoding="utf-8")
