"""Makes docs/figures/frontier.svg from the recorded runs:  python docs/figures/frontier.py

Each method is a point: reward of the BF16 policy against that of the quantised one, mean and standard deviation over
seeds. Up and to the right is better for both.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from ais.comparison.results.shown import name_of
from benchmarks.compare.tables import chosen

HERE = Path(__file__).parent

PRECISIONS = {"e5m2": "E5M2", "w4a8_ls": "W4A8, least-squares scales", "e4m3": "E4M3"}
COLOURS = {
    "none": "black", "tis_sequence": "tab:blue", "plateau_1": "tab:orange", "honest_0.5": "tab:pink",
    "honest_plateau_1": "tab:red",
}  # fmt: skip
LIMITS = (0.55, 0.95)


def draw(axis: plt.Axes, precision: str, title: str) -> None:
    for row in chosen("frontier", "sort16", precision, list(COLOURS)):
        p, q = row.estimates["p_late"], row.estimates["q_late"]
        axis.errorbar(
            p.mean, q.mean, q.deviation if q.count > 1 else 0, p.deviation if p.count > 1 else 0,
            fmt="o", color=COLOURS[row.method], markersize=4, label=f"{name_of(row)} ({p.count})",
        )  # fmt: skip
    for row in chosen("frontier", "sort16", precision, ["bf16"]):
        axis.axvline(row.estimates["p_late"].mean, color="grey", linewidth=0.8, linestyle="--")
        axis.axhline(row.estimates["p_late"].mean, color="grey", linewidth=0.8, linestyle="--")
    axis.set(title=title, xlabel="reward of the BF16 policy", xlim=LIMITS, ylim=LIMITS, aspect="equal")
    axis.legend(fontsize=7, loc="lower left", title="method (seeds)", title_fontsize=7)
    axis.grid(alpha=0.3)


def main() -> None:
    figure, axes = plt.subplots(1, len(PRECISIONS), figsize=(4.2 * len(PRECISIONS), 4.0), layout="constrained")
    for axis, (precision, title) in zip(axes, PRECISIONS.items(), strict=True):
        draw(axis, precision, title)
    axes[0].set_ylabel("reward of the quantised policy")
    figure.savefig(HERE / "frontier.svg", metadata={"Date": None})


if __name__ == "__main__":
    mpl.rcParams["svg.hashsalt"] = "ais"
    main()
