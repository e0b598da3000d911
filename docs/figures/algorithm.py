"""Makes the figures of docs/algorithm.md:  python docs/figures/algorithm.py

Synthetic log-ratios l ~ N(-s^2/2, s^2), independent over tokens, so that every ratio has mean 1 under the sampler.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import torch

import ais_core
from ais_core import CorrectionSettings, MixingSettings, SequenceBatch

HERE = Path(__file__).parent
LENGTHS = (16, 64, 256, 1024, 4096, 16384)
MISMATCHES = [10 ** (-3 + step / 6) for step in range(19)]
SEQUENCES = 64


def batch_of(length: int, mismatch: float) -> SequenceBatch:
    generator = torch.Generator().manual_seed(length)
    logs = torch.randn(SEQUENCES * length, generator=generator) * mismatch - mismatch**2 / 2
    return SequenceBatch.packed(logs, torch.full((SEQUENCES,), length))


def over_lengths_and_mismatch() -> None:
    """alpha, block length and effective sample over what the defaults must stand."""
    correction = ais_core.build(CorrectionSettings(level="adaptive", mixing=MixingSettings(evaluation="same_batch")))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for length in LENGTHS:
        rows = []
        for mismatch in MISMATCHES:
            batch = batch_of(length, mismatch)
            plan, _ = correction.plan(correction.measure(batch), None)
            weights = correction.weights(batch, None, plan).double()
            ess = float(weights.sum() ** 2 / (weights.numel() * weights.square().sum()))
            rows.append((plan.alpha, min(2**plan.rung, length), ess))
        for axis, column in zip(axes, zip(*rows, strict=True), strict=True):
            axis.plot(MISMATCHES, column, label=f"{length} tokens")
    titles = ("mixing coefficient", "block length, tokens", "effective sample of h, share")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xscale="log", xlabel="sd of log r per token, nats")
        axis.grid(alpha=0.3)
    axes[1].set_yscale("log", base=2)
    axes[2].set_ylim(0, 1.02)
    axes[2].axhline(0.5, color="black", linewidth=0.8, linestyle="--")
    axes[0].legend(fontsize=7)
    figure.savefig(HERE / "lengths.svg", metadata={"Date": None})


def by_level() -> None:
    """The effective sample that truncated weights of each level leave, at one mismatch."""
    figure, axis = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    lengths = [2**power for power in range(2, 15)]
    for level in ("token", "prefix", "geometric", "sequence"):
        correction = ais_core.build(CorrectionSettings(method="tis", level=level))
        ess = [ais_core.summarize(correction.measure(batch_of(length, 0.05))).weight_ess_ratio for length in lengths]
        axis.plot(lengths, ess, label=level)
    axis.set(title="sd of log r = 0.05 per token", xscale="log", xlabel="tokens of a sequence", ylim=(0, 1.02))
    axis.set_ylabel("ESS ratio of weights truncated at 2")
    axis.set_xscale("log", base=2)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(HERE / "levels.svg", metadata={"Date": None})


if __name__ == "__main__":
    torch.set_num_threads(1)
    mpl.rcParams["svg.hashsalt"] = "ais"
    over_lengths_and_mismatch()
    by_level()
