"""The report: one HTML file with everything in it, readable without a network, on paper, by day and by night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ais.launcher.directory.plots import Plot
from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.report.parts import card, document, table
from ais.launcher.report.plots import DRAWN, scale_of, series_of
from ais.launcher.report.results import COMPONENTS, Results, Score, read_results
from ais.launcher.report.samples import Sample, read_samples
from ais.launcher.report.summary import note, policy_name, rows, totals
from ais.runtime.files import replace_file
from ais.runtime.network.redis_url import without_passwords


def write_report(directory: RunDirectory) -> Path:
    """Writes a run's report. Returns where it lies."""
    results = read_results(directory)
    replace_file(directory.report, page(results))
    return directory.report


def page(results: Results) -> str:
    """The whole document."""
    header = f"""<h1>{escape(results.directory.name)} {_status(results)}</h1>
<p class="lead">{_lead(results)}</p>
{_reason(results)}
{_tiles(results)}"""
    main = f"""{_plots(results)}
{_figures(results)}
{_evaluations(results.evaluations)}
{_held_out(results.held_out)}
{_samples(read_samples(results.directory.path))}
{_facts(results)}
<details>
<summary>Settings</summary>
<pre>{escape(without_passwords(results.directory.config.read_text(encoding="utf-8")))}</pre>
</details>"""
    return document(f"{results.directory.name}: run report", header, main)


def _status(results: Results) -> str:
    status = results.record.status if results.record else "running"
    word = "unfinished" if status == "running" else status
    return f'<span class="status {word}">{word}</span>'


def _reason(results: Results) -> str:
    if results.record is None or not results.record.reason:
        return ""
    return f'<pre class="reason">{escape(results.record.reason)}</pre>'


def _lead(results: Results) -> str:
    run, precision = results.settings["run"], results.settings["rollout"]["precision"]
    sampled = (
        "bf16"
        if precision["weights"] == "bf16"
        else f"{precision['weights']} weights per {precision['granularity']}, {precision['activations']} activations"
    )
    method, batch = results.settings["correction"]["method"], (run["groups_per_batch"], run["samples_per_group"])
    return (
        f"<code>{_text(run['model'])}</code> trained in BF16 on rollouts sampled with {_text(sampled)}; correction "
        f"<code>{_text(method)}</code>; {_text(batch[0])} prompts × {_text(batch[1])} samples a batch, staleness at "
        f"most {_text(run['max_staleness'])}."
    )


def _tiles(results: Results) -> str:
    tiles = [
        (f"reward, {policy_name(precision)}", f"{scores[0].reward_mean:.2f} → {scores[-1].reward_mean:.2f}")
        for precision, scores in results.evaluations.items()
    ]
    tiles += totals(results)
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in tiles)
    return f'<dl class="tiles">{items}</dl>'


def _plots(results: Results) -> str:
    cards = [_card(plot, results, f"plot-{number}") for number, plot in enumerate(DRAWN, start=1)]
    if not any(cards):
        return '<p class="empty">No step has been trained yet.</p>'
    return f'<section class="plots" aria-label="Plots">{"".join(cards)}</section>'


def _card(plot: Plot, results: Results, name: str) -> str:
    return card(plot.title, plot.caption, series_of(plot, results), name, scale_of(plot), plot.wide)


def _samples(samples: Sequence[Sample]) -> str:
    """Prompts and responses of the newest steps, and of the first ones to compare with."""
    if not samples:
        return ""
    items = "".join(
        f"<li><h3>step {sample.step}, reward {sample.reward:.3g}{_parts(sample)}, "
        f"ended by {escape(sample.finish_reason)}</h3>"
        f"<pre>{escape(sample.prompt)}</pre><pre>{escape(sample.response)}</pre></li>"
        for sample in samples
    )
    return f'<section><h2>Samples</h2><ol class="samples">{items}</ol></section>'


def _parts(sample: Sample) -> str:
    """The components of a sample's reward, where there are several."""
    if len(sample.components) < 2:
        return ""
    return escape(f" ({', '.join(f'{name} {score:.3g}' for name, score in sample.components.items())})")


def _figures(results: Results) -> str:
    body = [(row.label, row.before, row.after) for row in rows(results)]
    if not body:
        return ""
    return table("Figures", ("", "before", "after"), body) + f'<p class="note">{escape(note(results))}</p>'


def _evaluations(evaluations: Mapping[str, Sequence[Score]]) -> str:
    if not evaluations:
        return ""
    steps = sorted({score.step for scores in evaluations.values() for score in scores})
    by_step = {precision: {score.step: score for score in scores} for precision, scores in evaluations.items()}
    body = [
        (str(step), *(str(scores[step]) if step in scores else "" for scores in by_step.values())) for step in steps
    ]
    return table("Held-out reward of the checkpoints, ± standard error", ("step", *map(policy_name, evaluations)), body)


def _held_out(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return ""
    names = [name for name in records[0] if name.startswith("pass@") and f"{name}_interval" in records[0]]
    parts = list(dict.fromkeys(name for record in records for name in record if name.startswith(COMPONENTS)))
    parts = parts if len(parts) > 1 else []
    body = [
        (
            str(record["step"]),
            record["source"],
            _estimate(record, "reward_mean", "reward_interval"),
            *(_estimate(record, name, f"{name}_interval") for name in names),
            *(f"{record[part]:.3f}" if part in record else "" for part in parts),
            _versions(record),
            f"{record['prompts']} × {record['samples']}",
        )
        for record in records
    ]
    head = ("step", "source", "reward", *names, *(part.removeprefix(COMPONENTS) for part in parts), "versions")
    head = (*head, "prompts × samples")
    return table("Held-out prompts while training, ± 95% interval", head, body)


def _estimate(record: Mapping[str, Any], mean: str, interval: str) -> str:
    return f"{record[mean]:.3f} ± {record[interval]:.3f}" if mean in record else ""


def _versions(record: Mapping[str, Any]) -> str:
    first, last = record["first_version"], record["last_version"]
    return str(first) if first == last else f"{first} to {last}"


def _facts(results: Results) -> str:
    if (record := results.record) is None:
        return ""
    facts = [
        ("started", record.started_at.strftime("%Y-%m-%d %H:%M UTC")),
        ("machine", record.machine),
        ("Python", record.python),
        *record.software.items(),
        ("model", results.model or "none saved yet"),
    ]
    return table("What it ran on", ("", ""), facts)


def _text(value: object) -> str:
    """A value of the settings file, whatever it holds, as text of the page."""
    return escape(str(value))
