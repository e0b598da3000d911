"""Metrics of the weights on their way to the replicas."""

from __future__ import annotations

from ais.runtime.metrics.meter import Meter
from ais.trainer.metrics.numbers import SECONDS_BUCKETS

ENCODINGS = ("full", "delta", "adapter")


class WeightMetrics:
    """Pushes, deltas and forms."""

    def __init__(self, meter: Meter) -> None:
        self.pushes = meter.counter(
            "ais_weight_pushes",
            "Uploads of the weights to a replica: applied, superseded (it serves a newer version), refused (4xx), "
            "failed (no connection, deadline or 5xx; tried again), rebased (it lacked the base of a delta, or "
            "cannot take a quantised form; the full version or BF16 follows).",
            "`refused`: the replica's log has the reason; it goes on with its old version. `failed`: the network, or "
            "trainer.push.deadline_seconds is short.",
            {"outcome": ("applied", "superseded", "refused", "failed", "rebased")},
        )
        self.push_seconds = meter.histogram(
            "ais_weight_push_seconds",
            "Seconds of one successful upload, until the replica serves it, by encoding.",
            'Longer than a step: replicas fall behind. Deltas, trainer.push.wire = "replica", adapters, or a faster '
            "network.",
            {"encoding": ENCODINGS},
            buckets=SECONDS_BUCKETS,
        )
        self.push_bytes = meter.counter(
            "ais_weight_push_bytes",
            "Bytes of weights sent, whether or not they were applied, by encoding. Not what replicas relay.",
            "Mostly `full`: deltas do not pay at this learning rate, or replicas lack their base.",
            {"encoding": ENCODINGS},
        )
        self.set_aside = meter.gauge(
            "ais_weight_replicas_set_aside",
            "Replicas whose last upload failed or came too late; tried again.",
            "The trainer's log names them: look at their network and their load.",
        )
        self.refused_by_all = meter.gauge(
            "ais_weight_version_refused_by_all",
            "How often every replica has refused the newest version; the run ends at trainer.push.refusals.",
            "The trainer's log has the replicas' reasons. NaN weights: go back to an earlier checkpoint.",
        )
        self.replica_lag = meter.replaced_gauge(
            "ais_replica_lag_versions",
            "Versions between the newest one and the one that a live replica serves, by the replica's name in the "
            "registry. A replica that has left has none.",
            "Above run.max_staleness the replica gets no work: look at the pushes to it and at its log.",
            {"replica": ()},
        )
        self.changed = meter.replaced_gauge(
            "ais_weight_changed_codes_ratio",
            "Share of the linear layers' codes that differ between the newest version and the one before, in bf16 and "
            "in each number format that replicas quantise weights to. Of about 260,000 weights, the "
            "same each time; once in five seconds at most.",
            "Near 0 in the replicas' format while bf16 changes: updates are smaller than the grid and the sampling "
            "policy stands still. Raise the learning rate or use a finer format.",
            {"format": ()},
        )
        self.delta_ratio = meter.gauge(
            "ais_weight_delta_ratio",
            "Bytes of the last delta by those of the version. NaN: none was made yet.",
            "Near 1 the whole version is sent instead: large updates leave little to save.",
        )
        self.delta_ratio.set(float("nan"))
        self.form_seconds = meter.histogram(
            "ais_weight_form_seconds",
            "Seconds of quantising one version, beside training.",
            "Longer than a step: set trainer.push.wire back to bf16, and let replicas quantise.",
            buckets=SECONDS_BUCKETS,
        )
        self.delta_seconds = meter.histogram(
            "ais_weight_delta_seconds",
            "Seconds of computing and proving one delta, beside training.",
            "Longer than the upload that it saves: turn trainer.push.deltas off, or give it "
            "trainer.push.delta_threads.",
            buckets=SECONDS_BUCKETS,
        )
