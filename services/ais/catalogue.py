"""The catalogue of metrics, as a document: what each service shows, what it means, what to do when it looks wrong."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from ais.runtime.metrics.meter import Described, Labels

_HEAD = """\
# Metrics

Made by `ais metrics` from the code, where each metric is defined beside its description. Every service serves its own
at `/metrics`, as OpenMetrics or as Prometheus' text, whichever the caller accepts; [who may ask](security.md). What the
alerts make of them, and what to do then, is in the [runbook](runbook.md).

- Gauges describe the newest step, batch or moment. NaN: not measured.
- Labels whose values are listed have all their series from the start, so `increase()` sees the first failure. Others
  appear when they come. Series about replicas go when the replica goes, and there are at most 256 of each kind.
- Tell runs apart with `and on (job, instance) ais_run_info{run="demo"}`; `ais_training_info` and `ais_replica_info`
  have method, objective, engine and precision.
- `process_*` are those of the Prometheus client: memory, CPU time, open files, start time. vLLM's own are `vllm:*`.
"""
_COLUMNS = ("metric", "type, unit", "labels", "what it is", "when it looks wrong")


def services() -> dict[str, list[Described]]:
    """What each service measures, in the order of its code; first what all of them do."""
    from ais.collector.metrics import CollectorMetrics
    from ais.rollout.metrics import RolloutMetrics
    from ais.runtime.metrics.registry import shared_descriptions
    from ais.trainer.metrics import TrainerMetrics

    return {
        "Every service": shared_descriptions(),
        "Trainer": TrainerMetrics(CollectorRegistry()).described,
        "Collector": CollectorMetrics(CollectorRegistry()).described,
        "Rollout replica": RolloutMetrics(CollectorRegistry()).described,
    }


def document() -> str:
    """The catalogue in Markdown."""
    parts = [_HEAD]
    for service, described in services().items():
        parts.append(f"\n## {service}\n\n{_row(_COLUMNS)}{_row(['---'] * len(_COLUMNS))}")
        parts += [_row(_cells(one)) for one in described]
    return "".join(parts)


def _cells(one: Described) -> list[str]:
    kind = f"{one.kind}, {one.unit}" if one.unit else one.kind
    return [f"`{one.name}`", kind, _labels(one.labels), one.meaning, one.cure]


def _labels(labels: Labels) -> str:
    return "; ".join(
        f"`{name}`: {', '.join(sorted(values))}" if values else f"`{name}`" for name, values in labels.items()
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
