"""Makes docs/figures/rules_by_length.svg from benchmarks/results/lengths.json:  python docs/figures/rules_by_length.py

Above, what the rules that mix do to batches of log-ratios at D = .02; below, how biased gradients are in a world where
they are known exactly. `ais bench lengths` records both.
"""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RECORDED = HERE.parents[1] / "benchmarks" / "results" / "lengths.json"
RULES = {"ais": "AIS, the default", "ais_adaptive": "AIS, adaptive", "handover": "hand-over"}
PANELS = {
    "slope": "slope of log h on a token's log-ratio",
    "share": "importance-weighted share",
    "mean_weight": "mean weight",
}
METHODS = {
    "none": "uncorrected", "ais": "AIS, the default", "handover": "hand-over", "tis_token": "token TIS",
    "centred": "uncorrected, centred",
}  # fmt: skip


def main() -> None:
    mpl.rcParams["svg.hashsalt"] = "ais"
    figures = json.loads(RECORDED.read_text())["figures"]
    lengths = sorted(
        {
            int(name.split("_")[1])
            for name in figures
            if name.startswith("ais_") and name.endswith("_slope") and name.split("_")[1].isdigit()
        }
    )
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained", sharex=True)
    for axis, (key, title) in zip(axes[0], PANELS.items(), strict=True):
        for rule, label in RULES.items():
            axis.plot(
                lengths, [figures[f"{rule}_{n}_{key}"]["value"] for n in lengths], "o-", markersize=4, label=label
            )
        axis.set(title=title, ylim=(-0.03, 1.05))
    axes[0, 0].axhline(0.4, color="grey", linewidth=0.8, linestyle="--")
    for rule, label in {"ais": "AIS", "handover": "hand-over", "handover_memory": "hand-over, memory .9"}.items():
        axes[1, 0].plot(
            lengths, [figures[f"{rule}_{n}_alpha_spread"]["value"] for n in lengths], "o-", markersize=4, label=label
        )
    axes[1, 0].set(title="sd of alpha over batches of 64 answers")
    axes[1, 0].axhline(0.03, color="grey", linewidth=0.8, linestyle="--")
    for axis, kind in zip(axes[1, 1:], ("random", "adverse"), strict=True):
        for method, label in METHODS.items():
            values = [figures[f"{kind}_{method}_{n}_bias"]["value"] for n in lengths]
            axis.plot(lengths, values, "o-", markersize=4, label=label)
        axis.set(title=f"chain, {kind} mismatch: bias / |gradient|", yscale="log")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in axes[1]:
        axis.set_xlabel("tokens of an answer")
        axis.set_xscale("log", base=2)
    figure.savefig(HERE / "rules_by_length.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
