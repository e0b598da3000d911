"""The parts that a page is made of: the document around it, plots with their legends, tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ais.launcher.report.drawing import PLAIN, Rendered, Scale, Series, render

STYLE = Path(__file__).with_name("style.css")
_HOVER = Path(__file__).with_name("hover.js")


def document(title: str, header: str, main: str) -> str:
    """A whole page in one file. `title` is text, the others are HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
{header}
</header>
<main>
{main}
</main>
<script>
{_HOVER.read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def card(
    title: str, caption: str, series: Sequence[Series], name: str, scale: Scale = PLAIN, wide: bool = False
) -> str:
    """A plot with its title, legend and caption; a wide one is drawn again for narrow screens. Empty where there is
    nothing to draw."""
    if (rendered := render(title, series, scale, name, wide)) is None:
        return ""
    charts = _chart(rendered, title, "broad" if wide else "")
    if wide and (narrow := render(title, series, scale, f"{name}-narrow")):
        charts += _chart(narrow, title, "narrow")
    entries = "".join(
        f'<li><span class="swatch" style="background: {colour}"></span>{escape(label)}</li>'
        for colour, label in rendered.legend
    )
    legend = f'<ul class="legend">{entries}</ul>' if entries else ""
    return (
        f"<figure{' class=wide' if wide else ''}><h2>{escape(title)}</h2>{legend}{charts}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(title: str, head: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    """A table with its title; the first cell of each line names it."""
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' if cell else "<td></td>" for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in body
    )
    whole = f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    return f"<section><h2>{escape(title)}</h2>{whole}</section>"


def _chart(rendered: Rendered, title: str, width: str) -> str:
    if not rendered.hover:
        return rendered.svg
    values = json.dumps(rendered.hover).replace("<", "\\u003c")
    return (
        f'<div class="chart {width}" tabindex="0" role="group" aria-label="{escape(title)}: arrow keys read values">'
        f'{rendered.svg}<script type="application/json">{values}</script></div>'
    )
