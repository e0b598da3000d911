"""Metrics of the queue and of what was refused."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from ais.contracts.limits import field_label
from ais.runtime.metrics.meter import Meter
from ais.trainer.record import StepRecord

STALENESS_BUCKETS = (0, 1, 2, 3, 4, 6, 8, 16)
REFUSED_FIELDS = (
    *("group", "schema_version", "ordinal", "trajectories", "staleness", "rewards", "other"),
    *("trajectories.token_ids", "trajectories.behaviour_logprobs", "trajectories.kept", "trajectories.routed"),
)
"""The reasons that docs/operations.md explains; others appear when they come."""


class QueueMetrics:
    """Groups on their way to the trainer."""

    def __init__(self, meter: Meter) -> None:
        self.depth = meter.gauge(
            "ais_queue_depth_groups",
            "Groups published and not yet trained on.",
            "0 while the trainer waits: rollouts are the slow part. Full: the trainer is; admission bounds it.",
        )
        self.oldest = meter.gauge(
            "ais_queue_oldest_group_seconds",
            "How long ago the oldest group that waits for training was published; 0 without one.",
            "Rising: its batch is not complete. The log of the trainer or the collector names what is missing.",
        )
        self.dead_letters = meter.gauge(
            "ais_dead_letters",
            "Refused groups that are kept for a person to look at, up to 1,000.",
            "`ais deadletter list` has the reasons, and docs/operations.md what they mean.",
        )
        self._discarded = meter.counter(
            "ais_groups_discarded",
            "Groups refused and sent to the dead letters, by the field that was wrong.",
            "One now and then is a broken record; the same field again and again, services that disagree.",
            {"field": REFUSED_FIELDS},
        )
        self.duplicates = meter.counter(
            "ais_groups_duplicate",
            "Groups whose ordinal had been received already.",
            "A few after a restart are natural. Otherwise two collectors run, or a queue was restored.",
        )
        self._staleness = meter.bulk_histogram(
            "ais_staleness_versions",
            "Policy versions between the oldest token of a trajectory and the policy trained on it.",
            "Mostly at run.max_staleness: replicas are behind, or rollouts take several steps. See the lag of "
            "replicas.",
            buckets=STALENESS_BUCKETS,
        )

    def count_discarded(self, field: str) -> None:
        """Counts a refused group by the label of the `field` it was refused for."""
        self._discarded.labels(field=field_label(field)).inc()

    def record(self, record: StepRecord, staleness: Sequence[int]) -> None:
        """Shows a finished step; `staleness` has one value a trajectory."""
        self.depth.set(record.queue_depth)
        counts = [0.0] * (len(STALENESS_BUCKETS) + 1)
        for versions, trajectories in Counter(staleness).items():
            counts[bisect_left(STALENESS_BUCKETS, versions)] += trajectories
        self._staleness.add(counts, sum(staleness))
