"""The curve of the recorded SmolLM2 run: `python docs/figures/smollm2.py`."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RUN = HERE.parents[1] / "benchmarks" / "results" / "smollm2"


def lines(name: str) -> list[dict[str, float | str]]:
    return [json.loads(line) for line in (RUN / name).read_text().splitlines()]


def main() -> None:
    steps, evaluations = lines("steps.jsonl"), lines("evaluations.jsonl")
    figure, (rewards, mismatch) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    rewards.plot(
        [s["step"] for s in steps], [s["reward_mean"] for s in steps], color="0.7", label="training, 64 samples"
    )
    for precision in sorted({str(e["precision"]) for e in evaluations}):
        chosen = [e for e in evaluations if e["precision"] == precision]
        rewards.errorbar(
            [e["step"] for e in chosen],
            [e["reward_mean"] for e in chosen],
            [e["reward_standard_error"] for e in chosen],
            marker="o",
            capsize=3,
            label=f"held out, {precision}",
        )
    rewards.set(xlabel="step", ylabel="reward", ylim=(0, None))
    rewards.legend(frameon=False)
    for key, label in (
        ("log_ratio_abs_mean", "mean |log-ratio|"),
        ("alpha", "alpha"),
        ("sequence_ess_ratio_raw", "ESS ratio of sequences"),
    ):
        mismatch.plot([s["step"] for s in steps], [s[key] for s in steps], label=label)
    mismatch.set(xlabel="step", ylim=(0, 1))
    mismatch.legend(frameon=False)
    plt.rcParams["svg.hashsalt"] = "ais"
    figure.savefig(HERE / "smollm2.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
