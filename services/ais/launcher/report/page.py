"""The report: one HTML file with everything in it, readable without a network, on paper, by day and by night."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.report.plots import PLOTS, Plot, Rendered, render
from ais.launcher.report.results import Results, Score, read_results
from ais.launcher.report.summary import note, policy_name, rows, totals
from ais.runtime.files import replace_file
from ais.runtime.redis_url import without_passwords

_STYLE = Path(__file__).with_name("style.css")


def write_report(directory: RunDirectory) -> Path:
    """Writes a run's report. Returns where it lies."""
    results = read_results(directory)
    replace_file(directory.report, page(results))
    return directory.report


def page(results: Results) -> str:
    """The whole document."""
    name = escape(results.directory.name)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name}: run report</title>
<style>
{_STYLE.read_text()}</style>
</head>
<body>
<header>
<h1>{name} {_status(results)}</h1>
<p class="lead">{_lead(results)}</p>
{_reason(results)}
{_tiles(results)}
</header>
<main>
{_plots(results)}
{_figures(results)}
{_evaluations(results.evaluations)}
{_facts(results)}
<details>
<summary>Settings</summary>
<pre>{escape(without_passwords(results.directory.config.read_text()))}</pre>
</details>
</main>
</body>
</html>
"""


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
    method = results.settings["correction"]["method"]
    return (
        f"<code>{escape(run['model'])}</code> trained in BF16 on rollouts sampled with {escape(sampled)}; "
        f"correction <code>{escape(method)}</code>; {run['groups_per_batch']} prompts × {run['samples_per_group']} "
        f"samples a batch, staleness at most {run['max_staleness']}."
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
    cards = [
        _card(plot, rendered)
        for number, plot in enumerate(PLOTS, start=1)
        if (rendered := render(plot, results, f"plot-{number}"))
    ]
    if not cards:
        return '<p class="empty">No step has been trained yet.</p>'
    return f'<section class="plots" aria-label="Plots">{"".join(cards)}</section>'


def _card(plot: Plot, rendered: Rendered) -> str:
    entries = "".join(
        f'<li><span class="swatch" style="background: {colour}"></span>{escape(label)}</li>'
        for colour, label in rendered.legend
    )
    legend = f'<ul class="legend">{entries}</ul>' if entries else ""
    return (
        f"<figure{' class=wide' if plot.wide else ''}><h2>{escape(plot.title)}</h2>{legend}{rendered.svg}"
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _figures(results: Results) -> str:
    body = [(row.label, row.before, row.after) for row in rows(results)]
    if not body:
        return ""
    return _table("Figures", ("", "before", "after"), body) + f'<p class="note">{escape(note(results))}</p>'


def _evaluations(evaluations: Mapping[str, Sequence[Score]]) -> str:
    if not evaluations:
        return ""
    steps = sorted({score.step for scores in evaluations.values() for score in scores})
    by_step = {precision: {score.step: score for score in scores} for precision, scores in evaluations.items()}
    body = [
        (str(step), *(str(scores[step]) if step in scores else "" for scores in by_step.values())) for step in steps
    ]
    return _table("Held-out reward of the checkpoints", ("step", *map(policy_name, evaluations)), body)


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
    return _table("What it ran on", ("", ""), facts)


def _table(title: str, head: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' if cell else "<td></td>" for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in body
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    return f"<section><h2>{escape(title)}</h2>{table}</section>"
