"""How many replicas KEDA asks for, by `promtool test rules` of the query in the chart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.charts import SETS, of_kind, rendered
from tests.support.monitoring.prometheus import promtool

pytestmark = [pytest.mark.helm, pytest.mark.prometheus]


@pytest.mark.parametrize(
    ("waits", "held_back", "age", "factor"),
    [
        (0.0, 0.0, 10, 1.0),
        (0.5, 0.5, 10, 1.0),  # they alternate, as with run.max_staleness = 0
        (0.5, 0.0, 10, 2.0),  # the trainer is starved half of its time: it could take twice as much
        (0.0, 0.4, 10, 0.6),
        (0.9, 0.0, 10, 4.0),
        (0.5, 0.0, 900, 1.0),  # a group has waited for a quarter of an hour: more replicas are no help
        (0.0, 0.4, 900, 0.6),
    ],
)
def test_replicas_follow_from_who_waits_for_whom(
    waits: float, held_back: float, age: float, factor: float, tmp_path: Path
) -> None:
    scaled = of_kind(rendered(SETS["8-gpus"]), "ScaledObject")["rollout"]["spec"]
    (trigger,) = scaled["triggers"]
    assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("Value", "1")  # replicas are multiplied by it
    of, collector = (f'namespace="lab",service="run-{service}"' for service in ("trainer", "collector"))
    series = {
        f"ais_collector_admission_blocked{{{collector}}}": "1 " * round(10 * held_back)
        + "0 " * round(10 - 10 * held_back),
        f'ais_trainer_phase_seconds_sum{{{of},phase="wait"}}': f"0+{60 * waits}x20",
        f'ais_trainer_phase_seconds_sum{{{of},phase="other"}}': f"0+{60 * (1 - waits)}x20",
        f"ais_queue_oldest_group_seconds{{{of}}}": f"{age}x20",
    }
    series |= {name.replace('"run-', '"other-'): f"0+{number}x20" for number, name in enumerate(series, 7)}
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values.strip()} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"round({trigger['metadata']['query']}, 0.001)",
                "eval_time": "9m30s",
                "exp_samples": [{"labels": "{}", "value": factor}],
            }
        ],
    }
    file = tmp_path / "case.yml"
    file.write_text(json.dumps({"tests": [case]}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stderr + done.stdout
