"""The expressions that panels are made of, each of the chosen run."""

from __future__ import annotations

from boards.panels import Query

RATE = "[$__rate_interval]"


def of_run(expression: str) -> str:
    """The series of the chosen run."""
    return f'({expression} and on (job, instance) ais_run_info{{run=~"$run"}})'


def q(metric: str, legend: str = "__auto") -> Query:
    """A metric of the chosen run, as it is."""
    return Query(of_run(metric), legend)


def rate(counter: str, by: str = "", legend: str = "__auto") -> Query:
    """How fast a counter of the chosen run rises, a second."""
    grouped = f"sum by ({by}) " if by else "sum "
    return Query(f"{grouped}({of_run(f'rate({counter}{RATE})')})", legend)


def quantile(share: float, histogram: str, legend: str, by: str = "") -> Query:
    """A quantile of a histogram of the chosen run."""
    labels = f"le, {by}" if by else "le"
    return Query(
        f"histogram_quantile({share:g}, sum by ({labels}) ({of_run(f'rate({histogram}_bucket{RATE})')}))", legend
    )


def shares(histogram: str, labels: str = "") -> Query:
    """The share of observations in each bucket and below, of the chosen run."""
    buckets = of_run(f"rate({histogram}_bucket{{{labels}}}[5m])")
    whole = of_run(f'rate({histogram}_bucket{{{labels + "," if labels else ""}le="+Inf"}}[5m])')
    return Query(f"sum by (le) ({buckets}) / ignoring (le) group_left () sum ({whole})", "up to {{le}}")
