"""Measures what the correction of one batch costs: sums, diagnostics, alpha and weights, against other code.

    ais bench correction [--sequences 256] [--length 2048] [--step-seconds S] [--output FILE]

The plain implementation computes the metrics of `ais_core.Diagnostics` eagerly on padded (B, T) tensors with a mask, as
trainers of the field do: quantiles by sorting, one pass per metric; for level `adaptive`, the weights of every block
length besides. Both take the same log-probs, in one process and one thread, and must agree on alpha. Memory is what a
call allocates at its peak, in tensors of the batch (float32); the log-ratios and the weights are two of them.

verl's own helper (`verl.trainer.ppo.rollout_corr_helper`: truncated sequence weights, their metrics and its off-policy
metrics) is a second reference wherever it can be imported, on a padded batch of answers of different lengths. Both must
agree on the weights of `tis` at sequence level. verl is not a dependency; this makes it importable without installing
what it does not need here:

    pip install --no-deps --target DIRECTORY verl==0.9.1 ray msgpack tensordict pyvers omegaconf codetiming orjson
    PYTHONPATH=DIRECTORY ais bench correction

Where a batch is as small as the demo's (256 x 17), calls into torch take the time and not tokens; the benchmark times
that case and counts its calls as well. As a share of a real step, see `benchmarks/train.py`. Prints a table, and one
JSON object as its last line.
"""

import argparse
import importlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import ais_core
from ais.comparison.machine import commit
from ais_core import CorrectionSettings, MixingSettings, SequenceBatch
from ais_core.settings import Level
from benchmarks.support.report import machine

SETTINGS = MixingSettings(evaluation="same_batch")


def library(level: Level, log_ratio: Tensor, lengths: Tensor) -> tuple[float | None, Tensor]:
    """The library's three calls."""
    correction = ais_core.build(CorrectionSettings(level=level, mixing=SETTINGS))
    batch = SequenceBatch.packed(log_ratio, lengths)
    plan, _ = correction.plan(correction.measure(batch), None)
    return plan.alpha, correction.weights(batch, None, plan)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum() / mask.sum()


def effective_sample_ratio(w: Tensor, mask: Tensor) -> Tensor:
    return (w * mask).sum() ** 2 / (mask.sum() * (w.square() * mask).sum())


def variation(w: Tensor, mask: Tensor) -> Tensor:
    mean = masked_mean(w, mask)
    return (masked_mean((w - mean).square(), mask)).sqrt() / mean


def plain(proximal: Tensor, behaviour: Tensor, mask: Tensor) -> tuple[float, Tensor, dict[str, float]]:
    """The same diagnostics, alpha (plateau rule at sequence level) and weights, eagerly."""
    cap = 2.0
    log_ratio = (proximal - behaviour).double() * mask
    ratio = log_ratio.clamp(-20, 20).exp()
    sequence_log = log_ratio.sum(1)
    sequence_ratio = sequence_log.clamp(-20, 20).exp()
    truncated_log = (log_ratio.clamp(max=math.log(cap)) * mask).sum(1)
    truncated = truncated_log.clamp(-20, 20).exp().clamp(max=cap)
    spread = truncated[:, None].expand_as(log_ratio) * mask
    raw = sequence_ratio[:, None].expand_as(log_ratio) * mask
    rows = torch.ones_like(sequence_log)
    absolute = log_ratio.abs()[mask.bool()].sort().values
    ordered = sequence_ratio.sort(descending=True).values
    tail = max(5, int(min(len(ordered) / 5, 3 * math.sqrt(len(ordered)))))
    figures = {
        "mean_abs": masked_mean(log_ratio.abs(), mask),
        "median": absolute[len(absolute) // 2],
        "p99": absolute[int(0.99 * len(absolute))],
        "max": absolute[-1],
        "k1": masked_mean(-log_ratio, mask),
        "k2": masked_mean(log_ratio.square() / 2, mask),
        "k3": masked_mean(ratio - 1 - log_ratio, mask),
        "chi_square": masked_mean((ratio - 1).square(), mask),
        "perplexity_ratio": masked_mean(-log_ratio, mask).exp(),
        "token_cv": variation(ratio, mask),
        "token_ess": effective_sample_ratio(ratio, mask),
        "sequence_mean": sequence_log.mean(),
        "sequence_sd": sequence_log.std(correction=0),
        "sequence_cv": variation(sequence_ratio, rows),
        "sequence_ess": effective_sample_ratio(sequence_ratio, rows),
        "tail": (ordered[:tail].log() - ordered[tail].log()).mean(),
        "weight_mean": masked_mean(spread, mask),
        "weight_cv": variation(spread, mask),
        "weight_ess": effective_sample_ratio(spread, mask),
        "raw_cv": variation(raw, mask),
        "truncated": masked_mean((spread >= cap).double(), mask),
        "histogram": torch.histc(absolute.clamp(min=1e-6).log2(), bins=104, min=-20.0, max=6.0).max(),
    }
    values = {name: float(value) for name, value in figures.items()}
    d, v, n = values["mean_abs"], values["raw_cv"], len(sequence_log)
    mean, deviation = values["weight_mean"], values["weight_mean"] * values["weight_cv"]
    severity = d**2 / (d**2 + SETTINGS.severity_scale**2)
    k = math.sqrt(1 / SETTINGS.effective_sample_floor - 1)
    reliability = min(1.0, k / max(deviation + k * (1 - mean), 1e-12))
    effective = n / (1 + v**2)
    amplification = (effective - 1) / (effective - 1 + SETTINGS.amplification_batch)
    alpha = severity * reliability * amplification
    return alpha, ((1 - alpha + alpha * spread) * mask).float(), values


def plain_adaptive(proximal: Tensor, behaviour: Tensor, mask: Tensor) -> tuple[float, Tensor, list[tuple[float, ...]]]:
    """`plain`, and the moments of the block weights at every power of two."""
    alpha, weights, _ = plain(proximal, behaviour, mask)
    log_ratio = (proximal - behaviour).double() * mask
    truncated = log_ratio.clamp(max=math.log(2.0)) * mask
    moments = []
    for width in (1 << rung for rung in range(math.ceil(math.log2(mask.shape[1])) + 1)):
        missing = -mask.shape[1] % width
        counts = torch.nn.functional.pad(mask, (0, missing)).view(len(mask), -1, width).sum(-1)
        raw, capped = (
            torch.nn.functional.pad(x, (0, missing)).view(len(mask), -1, width).sum(-1).clamp(-20, 20).exp()
            for x in (log_ratio, truncated)
        )
        capped = capped.clamp(max=2.0)
        row = (
            masked_mean(raw, counts),
            variation(raw, counts),
            masked_mean(capped, counts),
            effective_sample_ratio(capped, counts),
            masked_mean((capped >= 2.0).double(), counts),
        )
        moments.append(tuple(float(value) for value in row))
    return alpha, weights, moments


@dataclass(frozen=True)
class Padded:
    """Answers of different lengths in padded rows, as peers hold them."""

    proximal: Tensor
    behaviour: Tensor
    mask: Tensor
    """(B, T), bool."""

    @classmethod
    def draw(cls, proximal: Tensor, behaviour: Tensor) -> "Padded":
        rows, columns = proximal.shape
        lengths = torch.linspace(columns / 8, columns, rows).round()
        return cls(proximal, behaviour, torch.arange(columns) < lengths[:, None])

    def library(self, settings: CorrectionSettings) -> Tensor:
        """The library's weights, with sums, diagnostics and plan."""
        correction = ais_core.build(settings)
        batch = SequenceBatch.padded(ais_core.log_ratio(self.proximal, self.behaviour), self.mask)
        plan, _ = correction.plan(correction.measure(batch), None)
        return correction.weights(batch, None, plan)

    def packed(self, settings: CorrectionSettings) -> Callable[[], Tensor]:
        """The same of these answers laid end to end, as our trainer holds them."""
        proximal, behaviour = self.proximal[self.mask], self.behaviour[self.mask]
        lengths = self.mask.sum(1)

        def call() -> Tensor:
            correction = ais_core.build(settings)
            batch = SequenceBatch.packed(ais_core.log_ratio(proximal, behaviour), lengths)
            plan, _ = correction.plan(correction.measure(batch), None)
            return correction.weights(batch, None, plan)

        return call

    def verl(self, helper: Any) -> Tensor:
        """The weights of verl's helper, with its metrics."""
        weights, _, _ = helper.compute_rollout_correction_and_rejection_mask(
            self.proximal, self.behaviour, self.mask.float(), rollout_is="sequence", rollout_is_threshold=2.0
        )
        found: Tensor = weights.batch["rollout_is_weights"]
        return found


def verl_helper() -> Any:
    """verl's helper, or None where it cannot be imported."""
    try:
        return importlib.import_module("verl.trainer.ppo.rollout_corr_helper")
    except ImportError as error:
        print(f"verl's helper is left out: {error}")
        return None


def compare_padded(batch: Padded, unit: int) -> dict[str, dict[str, Any]]:
    """Time, memory and calls of the library on answers of different lengths, padded and packed, against verl's helper
    on the padded ones, where there is one."""
    settings = CorrectionSettings(mixing=SETTINGS)
    calls: dict[str, Callable[[], Any]] = {
        "padded": lambda: batch.library(settings),
        "packed": batch.packed(settings),
    }
    helper = verl_helper()
    if helper is not None:
        ours = batch.library(CorrectionSettings(method="tis", level="sequence"))
        torch.testing.assert_close(batch.verl(helper) * batch.mask, ours, rtol=1e-4, atol=1e-6)
        calls["verl"] = lambda: batch.verl(helper)
    took = seconds(calls)
    measured = {
        name: {"time": took[name] * 1e3, "peak_memory": peak_bytes(call) / unit, "calls": torch_calls(call)}
        for name, call in calls.items()
    }
    for name, label in (
        ("padded", "ais_core, padded, sequence"),
        ("packed", "ais_core, the same packed"),
        ("verl", "verl's helper, padded"),
    ):
        if name in measured:
            time_ms, peak, made = measured[name].values()
            print(f"{label:28}{time_ms:9.1f}{'':14}{peak:28.2f}   in {made} calls into torch")
    reference = measured.get("verl", {})
    units = {"time": "ms", "peak_memory": "tensors of the batch", "calls": "torch calls"}
    return {
        f"{name}_{kind}": {
            "value": round(value, 4),
            "unit": units[kind],
            "reference": round(reference[kind], 4) if reference else None,
            "ratio": round(reference[kind] / value, 3) if reference else None,
        }
        for name in ("padded", "packed")
        for kind, value in measured[name].items()
    }


def seconds(calls: dict[str, Callable[[], Any]], rounds: int = 15) -> dict[str, float]:
    """The least processor time of each call: one thread, calls in turn, so other work on the machine hardly counts."""
    least = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            least[name] = min(least[name], time.process_time() - start)
    return least


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most memory a call holds beyond what it started with, its result included."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    held = peak = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def torch_calls(call: Callable[[], Any]) -> int:
    """How many operations of torch a call makes, those that operations make themselves left out."""
    call()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        call()
    return sum(event.cpu_parent is None for event in recorded.events())


def short_batch(mismatch: float) -> Callable[[], Any]:
    """The library's calls on a batch of the demo's shape, with version lags as its trainer passes them."""
    proximal = -torch.rand(256 * 17) * 3
    behaviour = proximal - torch.randn(256 * 17) * mismatch
    lengths, lags = torch.full((256,), 17), torch.zeros(256 * 17, dtype=torch.int64)
    correction = ais_core.build(CorrectionSettings(level="adaptive", mixing=SETTINGS))

    def call() -> Tensor:
        batch = SequenceBatch.packed(ais_core.log_ratio(proximal, behaviour), lengths, lags)
        plan, _ = correction.plan(correction.measure(batch), None)
        return correction.weights(batch, None, plan)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--mismatch", type=float, default=0.02, help="standard deviation of the log-ratio, nats")
    parser.add_argument("--step-seconds", type=float, help="seconds of a training step on this batch, for the share")
    parser.add_argument("--output", type=Path, help="also write the JSON object here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = (options.sequences, options.length)
    proximal = -torch.rand(shape) * 3
    behaviour = proximal - (torch.randn(shape) * options.mismatch - options.mismatch**2 / 2)
    mask, lengths = torch.ones(shape), torch.full((options.sequences,), options.length)
    packed = ais_core.log_ratio(proximal, behaviour).flatten()
    expected, _, _ = plain(proximal, behaviour, mask)
    got, _ = library("sequence", packed, lengths)
    if got is None or abs(got - expected) > 1e-4:
        raise SystemExit(f"the two implementations disagree on alpha: {got} and {expected}")

    calls: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(proximal, behaviour, mask),
        "plain adaptive": lambda: plain_adaptive(proximal, behaviour, mask),
        "sequence": lambda: library("sequence", ais_core.log_ratio(proximal, behaviour).flatten(), lengths),
        "adaptive": lambda: library("adaptive", ais_core.log_ratio(proximal, behaviour).flatten(), lengths),
    }
    took = seconds(calls)
    short = short_batch(options.mismatch)
    took["short"] = seconds({"short": short}, rounds=300)["short"]
    unit = 4 * options.sequences * options.length
    memory = {name: peak_bytes(call) / unit for name, call in calls.items()}
    print(
        f"{options.sequences} x {options.length} tokens, one thread, least processor time of 15; "
        f"alpha {got:.4f} (plain {expected:.4f})"
    )
    print(f"{'':28}{'ms':>9}{'times faster':>14}{'peak, tensors of the batch':>28}")
    for name, reference, label in (
        ("plain", "plain", "plain eager, sequence level"),
        ("sequence", "plain", "ais_core, sequence level"),
        ("plain adaptive", "plain adaptive", "plain eager, adaptive level"),
        ("adaptive", "plain adaptive", "ais_core, adaptive level"),
    ):
        print(f"{label:28}{took[name] * 1e3:9.1f}{took[reference] / took[name]:14.1f}{memory[name]:28.2f}")

    made = torch_calls(short)
    print(f"{'ais_core, adaptive, 256 x 17':28}{took['short'] * 1e3:9.2f}   in {made} calls into torch")

    def figure(value: float, unit: str, reference: float) -> dict[str, Any]:
        return {
            "value": round(value, 4),
            "unit": unit,
            "reference": round(reference, 4),
            "ratio": round(reference / value, 3),
        }

    figures = {
        f"{name}_{kind}": figure(table[name] * scale, unit_name, table[reference] * scale)
        for name, reference in (("sequence", "plain"), ("adaptive", "plain adaptive"))
        for kind, table, scale, unit_name in (
            ("time", took, 1e3, "ms"),
            ("peak_memory", memory, 1.0, "tensors of the batch"),
        )
    }
    figures |= compare_padded(Padded.draw(proximal, behaviour), unit)
    figures["short_time"] = {"value": round(took["short"] * 1e3, 4), "unit": "ms", "reference": None, "ratio": None}
    figures["short_calls"] = {"value": made, "unit": "torch calls", "reference": None, "ratio": None}
    if options.step_seconds:
        share = took["adaptive"] / options.step_seconds
        print(f"share of a step of {options.step_seconds} s: {share:.3%}")
        figures["share_of_step"] = figure(100 * share, "%", 1.0)
    result = {"bench": "correction", "machine": machine(), "commit": commit(), "figures": figures}
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
