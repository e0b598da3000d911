"""Groups on their way to the trainer, weights on their way back."""

from __future__ import annotations

from boards.panels import Board, Panel, Query, Row
from boards.queries import of_run, q, quantile, rate

QUEUE = Board(
    "queue",
    "AIS: Queue and weights",
    "Do groups flow to the trainer, and weights back to the replicas?",
    [
        Row(
            "Groups",
            [
                Panel(
                    "Groups by place",
                    [
                        q("ais_collector_open_groups", "may start"),
                        q("ais_collector_running_groups", "running"),
                        q("ais_collector_accepted_groups", "published ahead"),
                        q("ais_queue_depth_groups", "in the queue"),
                    ],
                    "short",
                    "AisQueueStalled",
                ),
                Panel(
                    "Age of the oldest group", [q("ais_queue_oldest_group_seconds")], "s", "AisQueueStalled", warn=900
                ),
                Panel(
                    "The collector waits for the trainer",
                    [q("ais_collector_admission_blocked")],
                    "short",
                    "AisQueueStalled",
                    maximum=1,
                ),
                Panel(
                    "Groups by outcome",
                    [rate("ais_collector_groups_total", "outcome", "{{outcome}}")],
                    "ops",
                    "AisTrainerStarved",
                ),
                Panel(
                    "Time of a group",
                    [
                        quantile(0.5, "ais_collector_group_seconds", "half"),
                        quantile(0.95, "ais_collector_group_seconds", "95%"),
                    ],
                    "s",
                    "AisTrainerStarved",
                ),
                Panel(
                    "Staleness",
                    [Query(of_run("instance:ais_staleness_versions:mean5m"), "mean")],
                    "short",
                    "AisReplicaBehind",
                    text="Versions between the oldest token of a trajectory and the policy trained on it.",
                ),
            ],
        ),
        Row(
            "What was refused",
            [
                Panel("Dead letters", [q("ais_dead_letters")], "short", "AisDeadLetters", warn=1),
                Panel(
                    "Groups refused",
                    [rate("ais_groups_discarded_total", "field", "{{field}}")],
                    "ops",
                    "AisDeadLetters",
                    warn=1e-9,
                ),
                Panel(
                    "Calls that failed",
                    [rate("ais_collector_call_failures_total", "reason", "{{reason}}")],
                    "ops",
                    "AisNoReplica",
                ),
                Panel(
                    "Judgements",
                    [rate("ais_collector_judgements_total", "component, outcome", "{{component}} {{outcome}}")],
                    "ops",
                    "AisJudgementsFail",
                ),
                Panel(
                    "Time of a judgement",
                    [quantile(0.95, "ais_collector_judgement_seconds", "{{component}} 95%", "component")],
                    "s",
                    "AisJudgementsFail",
                ),
                Panel(
                    "Lateness of the collector",
                    [quantile(0.95, "ais_collector_loop_lag_seconds", "95%")],
                    "s",
                    "AisTrainerStarved",
                    warn=0.25,
                ),
            ],
        ),
        Row(
            "Redis",
            [
                Panel(
                    "Redis' memory",
                    [Query("redis_memory_used_bytes", "used"), Query("redis_memory_max_bytes > 0", "maxmemory")],
                    "bytes",
                    "AisRedisMemoryNearLimit",
                    text="Of the whole server, whatever run uses it. The compose stack has the exporter that tells it.",
                ),
                Panel(
                    "Redis waits for its disk",
                    [
                        Query(
                            'redis_latency_spike_duration_seconds{event_name=~"aof-.*"} '
                            "and on (instance, event_name) time() - redis_latency_spike_last < 300",
                            "{{event_name}}",
                        )
                    ],
                    "s",
                    "AisRedisDiskSlow",
                    text="The last wait of each kind that was longer than 100 ms, if it was within five minutes.",
                    warn=1,
                ),
            ],
        ),
        Row(
            "Weights",
            [
                Panel(
                    "Uploads by outcome",
                    [rate("ais_weight_pushes_total", "outcome", "{{outcome}}")],
                    "ops",
                    "AisWeightsRefused",
                ),
                Panel(
                    "Time of an upload",
                    [quantile(0.95, "ais_weight_push_seconds", "{{encoding}} 95%", "encoding")],
                    "s",
                    "AisReplicaBehind",
                ),
                Panel(
                    "Bytes sent",
                    [rate("ais_weight_push_bytes_total", "encoding", "{{encoding}}")],
                    "Bps",
                    "AisReplicaBehind",
                ),
                Panel("Delta by whole version", [q("ais_weight_delta_ratio")], "percentunit", "AisReplicaBehind"),
                Panel(
                    "Replicas set aside",
                    [
                        q("ais_weight_replicas_set_aside", "set aside"),
                        q("ais_weight_version_refused_by_all", "refused by all"),
                    ],
                    "short",
                    "AisWeightsRefused",
                    warn=1,
                ),
                Panel(
                    "Retries of Redis",
                    [rate("ais_redis_retries_total", "job", "{{job}}")],
                    "ops",
                    "AisRedisAway",
                    warn=1e-9,
                ),
            ],
        ),
    ],
)
