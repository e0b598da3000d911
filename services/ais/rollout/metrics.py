"""What a replica measures."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from ais.contracts.sampling import FinishReason, SamplingParameters
from ais.rollout.engine import Engine
from ais.runtime.metrics import Meter

_STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_CALL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

OTHER_FIELD = "other"
REFUSED = (
    *("group_id", "prompt_token_ids", "samples"),
    *(f"sampling.{name}" for name in SamplingParameters.model_fields),
    *("queue", "draining", "policy", OTHER_FIELD),
)
"""Why a call is refused: a closed set, whatever callers send."""


class RolloutMetrics:
    """Registered once per process. Implements `ais.rollout.engine.EngineObserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._meter = meter = Meter(registry)
        self.generated_tokens = meter.counter(
            "ais_rollout_generated_tokens", "Tokens sampled, also those of calls cancelled later."
        )
        self.step_seconds = meter.histogram(
            "ais_rollout_decode_step_seconds",
            "Time of one decode step: one token for every running sequence, with the prompts that entered.",
            buckets=_STEP_SECONDS,
        )
        self.sequences = meter.counter(
            "ais_rollout_finished_sequences",
            "Sequences finished, by reason: stop (a stop token) or length.",
            ["reason"],
        )
        for reason in FinishReason:
            self.sequences.labels(reason.value)
        self.response_tokens = meter.histogram(
            "ais_rollout_response_tokens",
            "Length of a finished response, in tokens.",
            buckets=[2**power for power in range(2, 16)],
        )
        self.call_seconds = meter.histogram(
            "ais_rollout_call_seconds",
            "Time of one Generate or Stream call, by gRPC status.",
            ["status"],
            buckets=_CALL_SECONDS,
        )
        self.rejected_requests = meter.counter(
            "ais_rollout_rejected_requests",
            "Calls refused, by the field that is wrong; `queue`: the waiting queue was full; `draining`; "
            "`policy`: it gave no distribution for a sample.",
            ["field"],
        )
        for field in REFUSED:
            self.rejected_requests.labels(field)
        self.weight_swaps = meter.counter(
            "ais_rollout_weight_swaps",
            "Weight pushes by outcome: applied, unchanged (served already), or the HTTP status of the refusal.",
            ["outcome"],
        )
        self.weight_bytes = meter.counter("ais_rollout_weight_received_bytes", "Bytes of weight pushes received.")
        self.weight_relays = meter.counter(
            "ais_rollout_weight_relays",
            "Versions passed on to another replica, by outcome: served, failed (the trainer sees to it), or refused, "
            "where no replica of the run is registered.",
            ["outcome"],
        )
        for outcome in ("served", "failed", "refused"):
            self.weight_relays.labels(outcome)
        self.swap_paused_seconds = meter.histogram(
            "ais_rollout_weight_swap_paused_seconds",
            "Time generation stood still for a new policy version.",
            buckets=_STEP_SECONDS,
        )
        self.swap_staging_seconds = meter.histogram(
            "ais_rollout_weight_swap_staging_seconds",
            "Time to read, verify and quantise new weights, beside generation that goes on.",
            buckets=_CALL_SECONDS,
        )
        self.probe_rejections = meter.counter(
            "ais_rollout_probe_rejections",
            "Pushed versions whose log-probs were not finite or too far from the trainer's, by what became of the "
            "version before: kept (it goes on serving) or lost (it could not be put back; the replica ends).",
            ["previous"],
        )
        for previous in ("kept", "lost"):
            self.probe_rejections.labels(previous)
        self._probe_gap = meter.gauge(
            "ais_rollout_probe_gap_nats",
            "Mean absolute difference of the replica's and the trainer's log-probs on the served version's probe, nats "
            "a token. NaN: the version came without one.",
        )
        self.show_probe_gap(None)
        self.heartbeat_failures = meter.counter(
            "ais_rollout_heartbeat_failures", "Heartbeats that did not reach the registry."
        )

    def watch(self, engine: Engine) -> None:
        """Adds gauges that read the engine when they are scraped."""
        gauges = {
            "ais_rollout_running_sequences": (
                "Sequences being sampled now.",
                lambda: engine.load().running_sequences,
            ),
            "ais_rollout_waiting_sequences": (
                "Sequences that wait for a slot.",
                lambda: engine.load().waiting_sequences,
            ),
            "ais_rollout_slots": ("Sequences that can be sampled at once.", lambda: engine.load().slots),
            "ais_rollout_policy_version": (
                "Policy version served now: optimizer batches behind the weights.",
                lambda: engine.describe().version,
            ),
        }
        for name, (help_text, value) in gauges.items():
            self._meter.gauge(name, help_text).set_function(value)

    def count_refusal(self, field: str) -> None:
        """`field` comes from the request: an index in it, or a name that is not known, gets no series of its own."""
        name = ".".join(field.split(".")[:2])
        self.rejected_requests.labels(name if name in REFUSED else OTHER_FIELD).inc()

    def show_probe_gap(self, gap: float | None) -> None:
        """`gap` is that of the version that serves from now on; None: it came without a probe."""
        self._probe_gap.set(float("nan") if gap is None else gap)

    def decode_step(self, seconds: float, tokens: int) -> None:
        self.step_seconds.observe(seconds)
        self.generated_tokens.inc(tokens)
