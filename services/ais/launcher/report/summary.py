"""A run in figures: the same for the terminal and for the report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ais.contracts.sampling import is_bf16
from ais.launcher.display import duration
from ais.launcher.report.results import COMPONENTS, Results


@dataclass(frozen=True)
class Row:
    """One quantity, at the beginning and at the end of the run."""

    label: str
    before: str
    after: str


def rows(results: Results) -> list[Row]:
    """Quantities that the run has; `before` and `after` are means over its first and last steps, or the scores of its
    first and last evaluated checkpoint."""
    return [*_scores(results), *_course(results)]


def totals(results: Results) -> list[tuple[str, str]]:
    """What the run as a whole came to."""
    seconds = results.training_seconds
    found = [("steps", f"{len(results.steps)} of {results.total_steps}")]
    if results.steps and seconds > 0:
        found += [
            ("steps/s", f"{len(results.steps) / seconds:.2f}"),
            ("tokens/s", f"{results.tokens / seconds:,.0f}"),
            ("training", duration(seconds)),
        ]
    if results.record and results.record.total_seconds is not None:
        found.append(("wall time", duration(results.record.total_seconds)))
    return found


def policy_name(precision: str) -> str:
    """How a policy is called where both are shown."""
    return "BF16 policy" if is_bf16(precision) else "rollout policy"


def note(results: Results) -> str:
    """What `before` and `after` stand for."""
    text = f"Means over the first and the last {results.window} steps"
    for scores in results.evaluations.values():
        first, last = scores[0], scores[-1]
        steps = f"step {first.step} and step {last.step}" if first.step != last.step else f"step {first.step}"
        held_out = f"{last.prompts} prompts, sampled as in training, {steps}, ± standard error"
        return f"Held-out reward: {held_out}. Others: {text.lower()}."
    return f"{text}."


def print_summary(console: Console, results: Results) -> None:
    """What the run came to, for a terminal."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right", style="bold")
    for row in rows(results):
        table.add_row(escape(row.label), row.before, row.after)
    console.print()
    console.print(table)
    console.print(note(results), style="dim", highlight=False)
    console.print()
    console.print(
        "   ".join(f"[dim]{label}[/dim] {value}" for label, value in totals(results)), highlight=False, soft_wrap=True
    )
    for label, path in (("model", results.model), ("report", results.directory.report)):
        if path is not None and path.exists():
            console.print(f"[dim]{label}[/dim] {path}", highlight=False, soft_wrap=True)


def _scores(results: Results) -> Iterator[Row]:
    for precision, scores in results.evaluations.items():
        first, last = scores[0], scores[-1]
        yield Row(f"held-out reward, {policy_name(precision)}", str(first), str(last))


def _course(results: Results) -> Iterator[Row]:
    for label, key, digits in (
        ("training reward", "reward_mean", 3),
        *((f"  {key.removeprefix(COMPONENTS)}", key, 3) for key in results.components),
        ("alpha", "alpha", 3),
        ("ESS ratio of tokens, raw", "ess_ratio_raw", 4),
        ("ESS ratio of tokens, applied", "ess_ratio_applied", 4),
        ("ESS ratio of sequences, raw", "sequence_ess_ratio_raw", 3),
        ("mean |log-ratio|", "log_ratio_abs_mean", 4),
        ("CV of the ratios", "ratio_cv", 3),
        ("KL k3", "kl_k3", 5),
        ("staleness, versions", "staleness_mean", 2),
        ("tokens/s", "tokens_per_second", 0),
    ):
        before, after = results.early(key), results.late(key)
        if not (math.isnan(before) and math.isnan(after)):
            yield Row(label, f"{before:,.{digits}f}", f"{after:,.{digits}f}")
