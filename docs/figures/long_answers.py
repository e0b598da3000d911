"""Makes the figure of long answers in docs/algorithm.md:  python docs/figures/long_answers.py

What the default rule does, and what it reports, at 16 to 65,536 tokens. Token log-ratios are drawn with the mean
magnitude and the k3 that `ais bench mismatch` recorded for SmolLM2 through vLLM, from two Gaussians: one token in ten
is four times as far off as the others, which gives the recorded ratio of the two figures. Every ratio has mean 1 under
the sampler. Hollow marks are plans with a concern.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import torch

import ais_core
from ais_core import CorrectionSettings, MixingSettings, Plan, SequenceBatch

HERE = Path(__file__).parent
RECORDED = HERE.parents[1] / "benchmarks" / "results" / "mismatch.json"
LENGTHS = [2**power for power in range(4, 17)]
SEQUENCES = 128
FAR_SHARE = 0.1
CORRECTION = ais_core.build(CorrectionSettings(mixing=MixingSettings(evaluation="same_batch")))


@dataclass(frozen=True)
class Mismatch:
    """Token log-ratios from two Gaussians of mean -s^2 / 2."""

    near: float
    far: float
    """Standard deviations, nats."""

    @classmethod
    def recorded(cls, mean_abs: float, k3: float) -> "Mismatch":
        """The two deviations whose mixture has these figures: D = sqrt(2 / pi) E s, and k3 = E s^2 / 2."""
        first, second = mean_abs * math.sqrt(math.pi / 2), 2 * k3
        apart = math.sqrt(max(second - first**2, 0.0))
        return cls(
            near=first - apart * math.sqrt(FAR_SHARE / (1 - FAR_SHARE)),
            far=first + apart * math.sqrt((1 - FAR_SHARE) / FAR_SHARE),
        )

    def batch(self, length: int) -> SequenceBatch:
        generator = torch.Generator().manual_seed(length)
        far = torch.rand(SEQUENCES * length, generator=generator) < FAR_SHARE
        deviation = torch.where(far, self.far, self.near)
        logs = torch.randn(len(far), generator=generator) * deviation - deviation.square() / 2
        return SequenceBatch.packed(logs, torch.full((SEQUENCES,), length))


def plans(mismatch: Mismatch) -> list[Plan]:
    found = []
    for length in LENGTHS:
        plan, _ = CORRECTION.plan(CORRECTION.measure(mismatch.batch(length)), None)
        found.append(plan)
    return found


def figures(plan: Plan) -> dict[str, float]:
    """What a panel shows of each plan."""
    assert plan.alpha is not None
    assert plan.effect is not None
    assert plan.diagnostics is not None
    return {
        "mixing coefficient": plan.alpha,
        "mean weight": plan.effect.mean_weight,
        "importance-weighted share": plan.effect.share,
        "slope": plan.effect.slope,
        "effective sequences, raw weights, share": plan.diagnostics.effective_sequences / SEQUENCES,
        "effective sample of h, share": plan.effect.effective_sample_ratio,
    }


def main() -> None:
    torch.set_num_threads(1)
    mpl.rcParams["svg.hashsalt"] = "ais"
    recorded = json.loads(RECORDED.read_text())["figures"]
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.6), layout="constrained", sharex=True)
    for colour, (name, label) in enumerate({"bf16": "BF16 on BF16", "fp8": "E4M3 W8A8"}.items()):
        mean_abs, k3 = (recorded[f"{name}_{key}"]["value"] for key in ("mean_abs_log_ratio", "k3"))
        found = plans(Mismatch.recorded(mean_abs, k3))
        for axis, title in zip(axes.flat, figures(found[0]), strict=True):
            values = [figures(plan)[title] for plan in found]
            axis.plot(LENGTHS, values, color=f"C{colour}", label=f"{label}, D = {mean_abs:.3f}")
            for length, value, plan in zip(LENGTHS, values, found, strict=True):
                face = "white" if plan.concerns else f"C{colour}"
                axis.plot(length, value, "o", color=f"C{colour}", markerfacecolor=face, markersize=5)
            axis.set(title=title, ylim=(-0.03, 1.05))
            axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("tokens of a sequence")
        axis.set_xscale("log", base=2)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(HERE / "long_answers.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
