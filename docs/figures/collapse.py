"""Makes docs/figures/collapse.svg from benchmarks/results/collapse.jsonl:  python docs/figures/collapse.py

Trainings on their way down, batch by batch: `ais bench collapse` records them.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from benchmarks.tiny_grpo.report import Record, read

HERE = Path(__file__).parent
RECORDED = HERE.parents[1] / "benchmarks" / "results" / "collapse.jsonl"
PANELS = {
    "reward": "reward of the sampler",
    "informative": "share of groups whose rewards differ",
    "norm": "length of the gradient",
    "moved": "length of the step",
    "right": "tokens on the right way, share",
    "cosine": "cosine of two halves of the batch",
}


def values(record: Record, key: str) -> list[float]:
    """A panel's curve; 0 where a batch had no gradient."""
    if key != "right":
        return [step.get(key, 0.0) for step in record["steps"]]
    counts = [{name: found["tokens"] for name, found in step["classes"].items()} for step in record["steps"]]
    return [found["right"] / sum(found.values()) for found in counts]


def main() -> None:
    mpl.rcParams["svg.hashsalt"] = "ais"
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.6), layout="constrained", sharex=True)
    for record in read(RECORDED):
        for axis, (key, title) in zip(axes.flat, PANELS.items(), strict=True):
            axis.plot(values(record, key), linewidth=1, label=f"{record['name']}, seed {record['seed']}")
            axis.set(title=title)
            axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("step")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(HERE / "collapse.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
