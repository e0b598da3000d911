"""What several parts of the metrics share."""

SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)


def number(value: float | None) -> float:
    """A statistic that was not measured shows as NaN."""
    return float("nan") if value is None else value
