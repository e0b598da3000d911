"""The run: learning, progress, time."""

from __future__ import annotations

from boards.panels import Board, Panel, Query, Row
from boards.queries import of_run, q, quantile

TRAINING = Board(
    "training",
    "AIS: Training",
    "Is the run learning, how far is it, and where does its time go?",
    [
        Row(
            "How far is it?",
            [
                Panel("Steps left", [q("ais_run_left_steps")], "short", "AisTrainerStarved", kind="stat", width=4),
                Panel(
                    "Time left",
                    [q("instance:ais_run_left_seconds:estimate")],
                    "s",
                    "AisTrainerStarved",
                    kind="stat",
                    text="Steps left at the speed of the last ten minutes.",
                    width=4,
                ),
                Panel(
                    "State",
                    [Query("max by (state) (last_over_time(ais_run_state[1d])) == 1", "{{state}}")],
                    "none",
                    "AisRunFailed",
                    kind="stat",
                    text="The last state that was seen, also after the trainer has ended.",
                    width=4,
                ),
                Panel("Reward", [q("ais_reward_mean")], "short", "AisRewardCollapsed", kind="stat", width=4),
                Panel(
                    "Steps a minute",
                    [Query(f"60 * {of_run('instance:ais_trainer_steps:rate5m')}")],
                    "short",
                    "AisTrainerStarved",
                    kind="stat",
                    text="Mean of five minutes.",
                    width=4,
                ),
                Panel("Policy version", [q("ais_policy_version")], "short", "AisQueueStalled", kind="stat", width=4),
            ],
        ),
        Row(
            "Is it learning?",
            [
                Panel(
                    "Reward by batch",
                    [q("ais_reward_mean", "training"), q("ais_reward_standard_deviation", "standard deviation")],
                    "short",
                    "AisRewardCollapsed",
                ),
                Panel(
                    "Held-out reward",
                    [
                        q("ais_evaluation_reward_mean", "{{source}}"),
                        q("ais_evaluation_pass_share", "{{source}} pass@{{k}}"),
                    ],
                    "short",
                    "AisRewardCollapsed",
                ),
                Panel(
                    "Reward by source and component",
                    [
                        q("ais_source_reward_mean", "{{source}}"),
                        q("ais_reward_component_mean", "{{component}}"),
                        q("ais_evaluation_component_mean", "held out: {{source}} {{component}}"),
                    ],
                    "short",
                    "AisRewardCollapsed",
                ),
                Panel(
                    "Groups that teach nothing",
                    [
                        q("ais_zero_variance_groups_ratio", "all rewards equal"),
                        q("ais_redrawn_groups_ratio", "redrawn"),
                    ],
                    "percentunit",
                    "AisGroupsDegenerate",
                    warn=0.95,
                    maximum=1,
                ),
                Panel(
                    "Entropy and divergence",
                    [q("ais_entropy_nats", "entropy"), q("ais_reference_kl_nats", "from the reference")],
                    "short",
                    "AisEntropyCollapsed",
                ),
                Panel("Gradient norm", [q("ais_gradient_norm")], "short", "AisNotFinite"),
                Panel(
                    "Responses cut off",
                    [q("ais_truncated_responses_ratio")],
                    "percentunit",
                    "AisTruncationRising",
                    warn=0.5,
                    maximum=1,
                ),
                Panel("Response length", [q("ais_response_length_tokens", "mean")], "short", "AisTruncationRising"),
                Panel(
                    "Tokens that the objective bounds",
                    [q("ais_bounded_tokens_ratio")],
                    "percentunit",
                    "AisUncorrected",
                    maximum=1,
                ),
            ],
        ),
        Row(
            "Where does the time go?",
            [
                Panel(
                    "Phases of a step",
                    [Query(of_run("instance:ais_trainer_phase_seconds:share5m"), "{{phase}}")],
                    "percentunit",
                    "AisTrainerStarved",
                    text="Share of the time of the last five minutes. Much waiting: rollouts are the slow part.",
                    maximum=1,
                ),
                Panel(
                    "Time of a step",
                    [
                        quantile(0.5, "ais_trainer_step_seconds", "half"),
                        quantile(0.95, "ais_trainer_step_seconds", "95%"),
                    ],
                    "s",
                    "AisTrainerStarved",
                ),
                Panel("Waiting for a batch", [q("ais_trainer_waiting_seconds")], "s", "AisTrainerStarved", warn=180),
                Panel(
                    "Published and committed",
                    [q("ais_policy_version", "trained"), q("ais_trainer_committed_version", "committed")],
                    "short",
                    "AisDiskFilling",
                ),
                Panel("Trainers so far", [q("ais_trainer_incarnation")], "short", "AisRestarts"),
                Panel(
                    "Free disk", [q("ais_run_directory_free_bytes")], "bytes", "AisDiskFilling", warn=2e9, below=True
                ),
            ],
        ),
    ],
)
