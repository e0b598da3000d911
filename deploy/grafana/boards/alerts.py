"""Alerts and warnings."""

from __future__ import annotations

from boards.panels import Board, Panel, Query, Row
from boards.queries import of_run, q, rate

FIRING = 'count by (alertname, severity) (ALERTS{alertname=~"Ais.*",alertstate="firing"}) or vector(0)'
"""The alerts themselves; 0 when there is none."""

ALERTS = Board(
    "alerts",
    "AIS: Alerts",
    "What fires, what is about to, and what has been told.",
    [
        Row(
            "Now",
            [
                Panel(
                    "Firing",
                    [
                        Query(
                            FIRING,
                            "{{alertname}} {{severity}}",
                        )
                    ],
                    "short",
                    "AisServiceSilent",
                    warn=1,
                    kind="bargauge",
                    text="Each alert has a section in the runbook.",
                    width=12,
                ),
                Panel(
                    "About to fire",
                    [
                        Query(
                            'count by (alertname) (ALERTS{alertname=~"Ais.*",alertstate="pending"}) or vector(0)',
                            "{{alertname}}",
                        )
                    ],
                    "short",
                    "AisServiceSilent",
                    kind="bargauge",
                    text="Their condition holds, and not yet for long enough.",
                    width=12,
                ),
            ],
        ),
        Row(
            "What was told",
            [
                Panel(
                    "Services that answer",
                    [Query('up{job=~"trainer|collector|rollout"}', "{{job}} {{instance}}")],
                    "short",
                    "AisServiceSilent",
                    warn=1,
                    below=True,
                    maximum=1,
                    text="0: it cannot be scraped.",
                ),
                Panel(
                    "Warnings of the trainer",
                    [Query(f"sum by (kind) ({of_run('increase(ais_trainer_warnings_total[15m])')})", "{{kind}}")],
                    "short",
                    "AisRewardCollapsed",
                    warn=1,
                ),
                Panel(
                    "Callers turned away",
                    [rate("ais_refused_callers_total", "job, reason", "{{job}} {{reason}}")],
                    "ops",
                    "AisCallersRefused",
                    warn=1e-9,
                ),
                Panel(
                    "Spans of traces",
                    [rate("ais_trace_spans_total", "job, outcome", "{{job}} {{outcome}}")],
                    "ops",
                    "AisSpansLost",
                    text="0 where traces are off.",
                ),
                Panel(
                    "Records skipped",
                    [rate("ais_stray_records_total", "job, kind", "{{job}} {{kind}}")],
                    "ops",
                    "AisRedisAway",
                    warn=1e-9,
                ),
                Panel(
                    "Certificates end in",
                    [Query(f"{of_run('ais_certificate_not_after_timestamp_seconds')} - time()", "{{subject}}")],
                    "s",
                    "AisCertificateExpiring",
                    warn=14 * 86400,
                    below=True,
                ),
                Panel("Time since the last sign of life", [q("ais_collector_idle_seconds")], "s", "AisQueueStalled"),
            ],
        ),
    ],
)
