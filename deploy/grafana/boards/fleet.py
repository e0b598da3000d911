"""The replicas."""

from __future__ import annotations

from boards.panels import Board, Panel, Query, Row
from boards.queries import of_run, q, quantile, rate

AT = 'instance=~"$replica"'
FLEET = Board(
    "fleet",
    "AIS: Rollout fleet",
    "Do the replicas have work, are they fast, and do they serve the newest weights?",
    [
        Row(
            "Is there a fleet?",
            [
                Panel(
                    "Ready replicas",
                    [q("ais_collector_ready_replicas", "ready"), Query('sum(up{job="rollout"})', "scraped")],
                    "short",
                    "AisReplicaLost",
                    warn=1,
                    below=True,
                ),
                Panel(
                    "Tokens a second",
                    [Query(of_run(f"instance:ais_rollout_generated_tokens:rate1m{{{AT}}}"), "{{instance}}")],
                    "short",
                    "AisNoReplica",
                    text="Sampled tokens, of each replica.",
                ),
                Panel(
                    "Running and waiting sequences",
                    [
                        q(f"ais_rollout_running_sequences{{{AT}}}", "{{instance}} running"),
                        q(f"ais_rollout_waiting_sequences{{{AT}}}", "{{instance}} waiting"),
                        q(f"ais_rollout_slots{{{AT}}}", "{{instance}} slots"),
                    ],
                    "short",
                    "AisTrainerStarved",
                ),
            ],
        ),
        Row(
            "Is it fast?",
            [
                Panel(
                    "Time of a decode step",
                    [quantile(0.5, "ais_rollout_decode_step_seconds", "{{instance}} half", "instance")],
                    "s",
                    "AisTrainerStarved",
                ),
                Panel("Time of a call", [quantile(0.95, "ais_rollout_call_seconds", "95%")], "s", "AisTrainerStarved"),
                Panel(
                    "Length of responses",
                    [
                        quantile(0.5, "ais_rollout_response_tokens", "half"),
                        quantile(0.95, "ais_rollout_response_tokens", "95%"),
                    ],
                    "short",
                    "AisTruncationRising",
                ),
                Panel(
                    "Calls refused",
                    [rate("ais_rollout_rejected_requests_total", "field", "{{field}}")],
                    "ops",
                    "AisNoReplica",
                ),
                Panel(
                    "Finished sequences",
                    [rate("ais_rollout_finished_sequences_total", "reason", "{{reason}}")],
                    "ops",
                    "AisTruncationRising",
                ),
                Panel(
                    "Heartbeats that failed",
                    [rate("ais_rollout_heartbeat_failures_total", "instance", "{{instance}}")],
                    "ops",
                    "AisRedisAway",
                    warn=1e-9,
                ),
            ],
        ),
        Row(
            "Does it serve the newest weights?",
            [
                Panel(
                    "Versions behind",
                    [q("ais_replica_lag_versions", "{{replica}}")],
                    "short",
                    "AisReplicaBehind",
                    warn=2,
                ),
                Panel(
                    "Pause for new weights",
                    [quantile(0.95, "ais_rollout_weight_swap_paused_seconds", "{{instance}} 95%", "instance")],
                    "s",
                    "AisReplicaBehind",
                ),
                Panel(
                    "Staging of new weights",
                    [quantile(0.95, "ais_rollout_weight_swap_staging_seconds", "{{instance}} 95%", "instance")],
                    "s",
                    "AisReplicaBehind",
                ),
                Panel(
                    "Probe gap and its limit",
                    [
                        q(f"ais_rollout_probe_gap_nats{{{AT}}}", "{{instance}}"),
                        q(f"ais_rollout_probe_allowed_gap_nats{{{AT}}}", "{{instance}} limit"),
                    ],
                    "short",
                    "AisProbeGapNearLimit",
                ),
                Panel(
                    "Versions refused by the probe",
                    [rate("ais_rollout_probe_rejections_total", "instance, previous", "{{instance}} {{previous}}")],
                    "ops",
                    "AisWeightsRefused",
                    warn=1e-9,
                ),
                Panel(
                    "Swaps by outcome",
                    [rate("ais_rollout_weight_swaps_total", "outcome", "{{outcome}}")],
                    "ops",
                    "AisWeightsRefused",
                ),
            ],
        ),
    ],
    replicas=True,
)
