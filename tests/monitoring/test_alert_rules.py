"""Every alert fires on what it is for and on nothing else, by `promtool test rules`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.monitoring.prometheus import ROOT, RULES, promtool, rules

pytestmark = pytest.mark.prometheus

MINUTES = 90
"""Length of every case; looked at in the end unless the case says otherwise."""
T, C, R = ('job="trainer",instance="t:1"', 'job="collector",instance="c:1"', 'job="rollout",instance="r:1"')
X = 'job="redis-exporter",instance="x:1"'
HEALTHY: Mapping[str, str] = {
    f"up{{{T}}}": "1x90",
    f'ais_certificate_not_after_timestamp_seconds{{{T},subject="trainer"}}': f"{300 * 86400}x90",
    f"process_start_time_seconds{{{T}}}": "1000x90",
    f"up{{{C}}}": "1x90",
    f"up{{{R}}}": "1x90",
    f'ais_run_state{{{T},state="finished"}}': "0x90",
    f"ais_run_left_steps{{{T}}}": "500-1x90",
    f"ais_policy_version{{{T}}}": "0+1x90",
    f"ais_trainer_steps_total{{{T}}}": "0+1x90",
    f"ais_trainer_incarnation{{{T}}}": "1x90",
    f"ais_trainer_waiting_seconds{{{T}}}": "0 20 0 5x87",
    f"ais_run_directory_free_bytes{{{T}}}": "100000000000-1000000x90",
    f'ais_effective_sample_size_ratio{{{T},weights="raw"}}': "0.93x90",
    f'ais_effective_sample_size_ratio{{{T},weights="applied"}}': "0.97x90",
    f'ais_lag_log_ratio_abs_mean_nats{{{T},lag="0"}}': "0.15x90",
    f"ais_log_ratio_abs_mean{{{T}}}": "0.15x90",
    f"ais_mixing_coefficient{{{T}}}": "0.8 0.7 0.9x88",
    f'ais_correction_concern{{{T},concern="uncorrected"}}': "0x90",
    f'ais_weight_changed_codes_ratio{{{T},format="bf16"}}': "0.3x90",
    f'ais_weight_changed_codes_ratio{{{T},format="e4m3"}}': "0.02x90",
    f'ais_skipped_steps_total{{{T},reason="not_finite"}}': "0x90",
    f'ais_skipped_steps_total{{{T},reason="untrusted"}}': "0x90",
    f'ais_trainer_warnings_total{{{T},kind="reward_collapsed"}}': "0x90",
    f'ais_trainer_warnings_total{{{T},kind="entropy_collapsed"}}': "0x90",
    f"ais_truncated_responses_ratio{{{T}}}": "0.1x90",
    f"ais_zero_variance_groups_ratio{{{T}}}": "0.4x90",
    f'ais_weight_pushes_total{{{T},outcome="applied"}}': "0+1x90",
    f'ais_weight_pushes_total{{{T},outcome="refused"}}': "0x90",
    f'ais_replica_lag_versions{{{T},replica="one"}}': "0 1 0 1x87",
    f"ais_queue_oldest_group_seconds{{{T}}}": "5x90",
    f'ais_groups_discarded_total{{{T},field="staleness"}}': "0x90",
    f'ais_rollout_probe_rejections_total{{{R},previous="kept"}}': "0x90",
    f"ais_rollout_probe_gap_nats{{{R}}}": "0.1x90",
    f"ais_rollout_probe_allowed_gap_nats{{{R}}}": "0.5x90",
    f"process_start_time_seconds{{{R}}}": "1000x90",
    f'ais_redis_retries_total{{{R},error="ConnectionError"}}': "0x90",
    f'ais_refused_callers_total{{{R},reason="no_token"}}': "0x90",
    f'ais_trace_spans_total{{{T},outcome="sent"}}': "0+100x90",
    f'ais_trace_spans_total{{{T},outcome="not_sent"}}': "0 2x89",
    f"up{{{X}}}": "1x90",
    f"redis_up{{{X}}}": "1x90",
    f"redis_memory_used_bytes{{{X}}}": "100000000x90",
    f"redis_memory_max_bytes{{{X}}}": "800000000x90",
    f"redis_aof_last_write_status{{{X}}}": "1x90",
    f'redis_latency_spike_duration_seconds{{{X},event_name="aof-fsync-always"}}': "0.15x90",
    f'redis_latency_spike_last{{{X},event_name="aof-fsync-always"}}': "0+60x90",
    f"ais_collector_ready_replicas{{{C}}}": "2x90",
    f'ais_collector_judgements_total{{{C},component="main",outcome="judged"}}': "0+100x90",
    f'ais_collector_judgements_total{{{C},component="main",outcome="error"}}': "0x90",
}
"""A run in order, a sample a minute."""


@dataclass(frozen=True)
class Case:
    """What is different from a healthy run, and which alerts fire then."""

    series: Mapping[str, str]
    minute: int = MINUTES
    also: tuple[str, ...] = field(default=())
    """Other alerts that rightly fire with it."""


CASES: Mapping[str, Case] = {
    "AisEffectiveSampleLow": Case({f'ais_effective_sample_size_ratio{{{T},weights="applied"}}': "0.4x90"}),
    "AisEffectiveSampleFalling": Case({f'ais_effective_sample_size_ratio{{{T},weights="raw"}}': "0.9x70 0.5x20"}),
    "AisMismatchAtLagZero": Case({f'ais_lag_log_ratio_abs_mean_nats{{{T},lag="0"}}': "0.1x70 0.4x20"}),
    "AisAlphaPinned": Case({f"ais_mixing_coefficient{{{T}}}": "0x90"}),
    "AisUncorrected": Case({f'ais_correction_concern{{{T},concern="uncorrected"}}': "1x90"}),
    "AisQuantisedPolicyStandsStill": Case({f'ais_weight_changed_codes_ratio{{{T},format="e4m3"}}': "0.00001x90"}),
    "AisNotFinite": Case({f'ais_skipped_steps_total{{{T},reason="not_finite"}}': "0x85 1x5"}),
    "AisBatchesUntrusted": Case({f'ais_skipped_steps_total{{{T},reason="untrusted"}}': "0x85 1x5"}),
    "AisRewardCollapsed": Case({f'ais_trainer_warnings_total{{{T},kind="reward_collapsed"}}': "0x85 1x5"}),
    "AisEntropyCollapsed": Case({f'ais_trainer_warnings_total{{{T},kind="entropy_collapsed"}}': "0x85 1x5"}),
    "AisTruncationRising": Case({f"ais_truncated_responses_ratio{{{T}}}": "0.1x70 0.6x20"}),
    "AisGroupsDegenerate": Case({f"ais_zero_variance_groups_ratio{{{T}}}": "1x90"}),
    "AisWeightsRefused": Case({f'ais_weight_pushes_total{{{T},outcome="refused"}}': "0x85 1x5"}),
    "AisProbeGapNearLimit": Case({f"ais_rollout_probe_gap_nats{{{R}}}": "0.45x90"}),
    "AisReplicaBehind": Case({f'ais_replica_lag_versions{{{T},replica="one"}}': "0x60 4x30"}),
    "AisTrainerStarved": Case({f"ais_trainer_waiting_seconds{{{T}}}": "0x70 60+60x19"}),
    "AisQueueStalled": Case(
        {f"ais_queue_oldest_group_seconds{{{T}}}": "0x60 60+60x29", f"ais_policy_version{{{T}}}": "0+1x60 60x30"}
    ),
    "AisDeadLetters": Case({f'ais_groups_discarded_total{{{T},field="staleness"}}': "0x85 3x5"}),
    "AisJudgementsFail": Case({f'ais_collector_judgements_total{{{C},component="main",outcome="error"}}': "0+20x90"}),
    "AisRedisAway": Case({f'ais_redis_retries_total{{{R},error="ConnectionError"}}': "0x70 5+10x19"}),
    "AisRedisSilent": Case({f"redis_up{{{X}}}": "1x80 0x10"}),
    "AisRedisMemoryNearLimit": Case({f"redis_memory_used_bytes{{{X}}}": "700000000x90"}),
    "AisRedisDiskSlow": Case({f'redis_latency_spike_duration_seconds{{{X},event_name="aof-fsync-always"}}': "2.5x90"}),
    "AisCallersRefused": Case({f'ais_refused_callers_total{{{R},reason="no_token"}}': "0x80 5+5x9"}),
    "AisSpansLost": Case({f'ais_trace_spans_total{{{T},outcome="not_sent"}}': "0+20x90"}),
    "AisServiceSilent": Case({f"up{{{T}}}": "1x80 0x10"}),
    "AisReplicaLost": Case({f"ais_collector_ready_replicas{{{C}}}": "2x82 1x8"}),
    "AisNoReplica": Case({f"ais_collector_ready_replicas{{{C}}}": "2x78 0x12"}, also=("AisReplicaLost",)),
    "AisRestarts": Case({f"process_start_time_seconds{{{R}}}": "1000x60 2000x10 3000x10 4000x10"}),
    "AisRunFailed": Case({f'ais_run_state{{{T},state="failed"}}': "0x85 1x2 _x3"}),
    "AisCertificateExpiring": Case(
        {f'ais_certificate_not_after_timestamp_seconds{{{T},subject="trainer"}}': f"{10 * 86400}x90"}
    ),
    "AisDiskFilling": Case({f"ais_run_directory_free_bytes{{{T}}}": "100000000000-1000000000x90"}),
}


def verdict(directory: Path, series: Mapping[str, str], minute: int, firing: tuple[str, ...]) -> str:
    """Empty when exactly the alerts `firing` fire at `minute`; else what promtool says."""
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
    test: dict[str, Any] = {
        "rule_files": [str(file) for file in RULES],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in {**HEALTHY, **series}.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{minute}m",
                        "exp_samples": expected,
                    }
                ],
            }
        ],
    }
    file = directory / "test.yml"
    file.write_text(json.dumps(test))  # JSON is YAML
    done = promtool("test", "rules", str(file))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_no_alert_fires_over_a_healthy_run(tmp_path: Path) -> None:
    assert verdict(tmp_path, {}, MINUTES, ()) == ""


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_on_what_it_is_for_and_alone(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    assert verdict(tmp_path, case.series, case.minute, (alert, *case.also)) == ""


CODES = f"ais_weight_changed_codes_ratio{{{T},format="
STANDING: Mapping[str, tuple[Mapping[str, str], bool]] = {
    "no code changes, and few of BF16": ({f'{CODES}"e4m3"}}': "0x90", f'{CODES}"bf16"}}': "0.0005x90"}, True),
    "one format of two stands still": ({f'{CODES}"int8"}}': "0x90"}, True),
    "a low rate for which E4M3 is fine enough": (
        {f'{CODES}"e4m3"}}': "0.0006x90", f'{CODES}"bf16"}}': "0.009x90"},
        False,
    ),
    "no replica quantises": ({f'{CODES}"e4m3"}}': "_x90", f'{CODES}"bf16"}}': "0.00001x90"}, False),
    "steps are made and nothing is learned": ({f'{CODES}"e4m3"}}': "0x90", f'{CODES}"bf16"}}': "0x90"}, False),
    "BF16 changes again after it stood still": (
        {f'{CODES}"e4m3"}}': "0x90", f'{CODES}"bf16"}}': "0x60 0.0001x30"},
        True,
    ),
    "nothing is trained": (
        {f'{CODES}"e4m3"}}': "0x90", f"ais_trainer_steps_total{{{T}}}": "70x90", f"ais_policy_version{{{T}}}": "70x90"},
        False,
    ),
}


@pytest.mark.parametrize("what", STANDING)
def test_the_quantised_policy_stands_still_when_its_codes_stay_and_any_of_bf16_change(
    what: str, tmp_path: Path
) -> None:
    series, fires = STANDING[what]
    assert verdict(tmp_path, series, MINUTES, ("AisQuantisedPolicyStandsStill",) if fires else ()) == ""


@pytest.mark.parametrize("minute", [8, 14, 25, 45])
def test_a_start_without_a_step_for_ten_minutes_and_a_fleet_that_joins_late_are_healthy(
    minute: int, tmp_path: Path
) -> None:
    """What describes a step is 0 until then; a replica that joins is hundreds of versions behind for a moment."""
    begun = {
        f'ais_effective_sample_size_ratio{{{T},weights="raw"}}': "0x10 0.93x80",
        f'ais_effective_sample_size_ratio{{{T},weights="applied"}}': "0x10 0.97x80",
        f"ais_truncated_responses_ratio{{{T}}}": "0x10 0.3x80",
        f"ais_policy_version{{{T}}}": "500x10 500+1x80",
        f"ais_trainer_steps_total{{{T}}}": "0x10 0+1x80",
        f"ais_trainer_waiting_seconds{{{T}}}": "0+60x9 0x80",
        f"ais_collector_ready_replicas{{{C}}}": "0x8 2x82",
        f'ais_replica_lag_versions{{{T},replica="one"}}': "_x6 500x1 0x83",
        f"ais_queue_oldest_group_seconds{{{T}}}": "30000+60x10 5x79",
        f'ais_redis_retries_total{{{R},error="ConnectionError"}}': "0x7 8x83",
        f"ais_run_directory_free_bytes{{{T}}}": "100000000000-5000000000x12 40000000000x78",
    }
    assert verdict(tmp_path, begun, minute, ()) == ""


def test_a_finished_run_is_not_a_silent_service(tmp_path: Path) -> None:
    ended = {
        f'ais_run_state{{{T},state="finished"}}': "0x80 1 _x9",
        f"ais_policy_version{{{T}}}": "0+1x80 _x10",
        f"up{{{T}}}": "1x80 0x10",
        f"up{{{C}}}": "1x80 0x10",
    }
    assert verdict(tmp_path, ended, MINUTES, ()) == ""


OF_BEFORE = 'job="trainer",instance="t:0"'
"""Where a trainer of an earlier run was, as pods have addresses of their own."""


@pytest.mark.parametrize("silent", [T, C])
def test_an_earlier_run_that_has_finished_does_not_silence_the_alert_about_a_later_one(
    silent: str, tmp_path: Path
) -> None:
    series = {
        f'ais_run_state{{{OF_BEFORE},state="finished"}}': "0x9 1 _x80",
        f'ais_run_state{{{OF_BEFORE},state="training"}}': "1x9 0 _x80",
        f"process_start_time_seconds{{{OF_BEFORE}}}": "500x10 _x80",
        f"process_start_time_seconds{{{T}}}": "_x20 1200x60 _x10" if silent == T else "_x20 1200x70",
        f'ais_run_state{{{T},state="training"}}': "_x20 1x60 _x10" if silent == T else "_x20 1x70",
        f"up{{{silent}}}": "1x80 0x10",
    }
    assert verdict(tmp_path, series, MINUTES, ("AisServiceSilent",)) == ""


def test_a_later_run_that_has_finished_does_not_silence_the_alert_about_an_earlier_one(tmp_path: Path) -> None:
    series = {
        f'ais_run_state{{{OF_BEFORE},state="finished"}}': "_x9 0x10 1 _x70",
        f"process_start_time_seconds{{{OF_BEFORE}}}": "_x9 2000x11 _x70",
        f'ais_run_state{{{T},state="training"}}': "1x90",
        f"up{{{C}}}": "1x80 0x10",
    }
    assert verdict(tmp_path, series, MINUTES, ("AisServiceSilent",)) == ""


def test_a_certificate_that_has_ended_is_told_although_nobody_can_read_the_metric_any_more(tmp_path: Path) -> None:
    ending = {
        f'ais_certificate_not_after_timestamp_seconds{{{T},subject="trainer"}}': f"{60 * 80}x80 _x10",
        f"up{{{T}}}": "1x80 0x10",
        f"ais_policy_version{{{T}}}": "0+1x80 _x10",
    }
    assert verdict(tmp_path, ending, MINUTES, ("AisCertificateExpiring", "AisServiceSilent")) == ""


def test_every_alert_has_a_case_a_severity_and_a_section_of_the_runbook() -> None:
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert alerts.keys() == CASES.keys()
    sections = re.findall(r"^## (\S+)$", (ROOT / "docs/runbook.md").read_text("utf-8"), re.MULTILINE)
    assert sections == list(alerts)
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}", name


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    done = promtool("check", "rules", *map(str, RULES))
    assert done.returncode == 0, done.stdout + done.stderr
