"""What a replica measures."""

from __future__ import annotations

import math
from collections.abc import Mapping

import grpc
from prometheus_client import CollectorRegistry

from ais.contracts.sampling import FinishReason, SamplingParameters
from ais.rollout.engine import CacheRange, Engine
from ais.runtime.metrics.meter import Meter

_STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_CALL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

OTHER_FIELD = "other"
PARTS = ("keys", "values")
"""What a key-value cache holds."""
REFUSED = (
    *("group_id", "prompt_token_ids", "samples"),
    *(f"sampling.{name}" for name in SamplingParameters.model_fields),
    *("queue", "draining", "policy", OTHER_FIELD),
)
"""Why a call is refused: a closed set, whatever callers send."""
SHARED = ("taken", "absent", "damaged")
"""What becomes of a file that an offer says to lie in a shared directory."""
_STATUSES = ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "CANCELLED")
_SWAPS = ("applied", "unchanged", "404", "408", "409", "411", "413", "415", "422", "503")
"""What becomes of pushes; the numbers are the statuses of refusals."""


class RolloutMetrics:
    """Registered once per process. Implements `ais.rollout.engine.EngineObserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        meter = Meter(registry)
        self.described = meter.described
        # Sampling.
        self.generated_tokens = meter.counter(
            "ais_rollout_generated_tokens",
            "Tokens sampled, also those of calls cancelled later.",
            "The rate falls: look at running sequences (no work?) and at the time of a decode step (slow?).",
        )
        self.step_seconds = meter.histogram(
            "ais_rollout_decode_step_seconds",
            "Time of one decode step: one token for every running sequence, with the prompts that entered.",
            "Rising: longer sequences, more of them, or somebody else uses the device.",
            buckets=_STEP_SECONDS,
        )
        self.sequences = meter.counter(
            "ais_rollout_finished_sequences",
            "Sequences finished, by reason: stop (a stop token) or length.",
            "Mostly `length`: answers are cut off. Raise collector.sampling.max_new_tokens, or look at samples.jsonl.",
            {"reason": [reason.value for reason in FinishReason]},
        )
        self._finished = {reason: self.sequences.labels(reason.value) for reason in FinishReason}
        self.response_tokens = meter.histogram(
            "ais_rollout_response_tokens",
            "Length of a finished response, in tokens.",
            "Growing without reward: the policy pads. Penalise length, or look at samples.jsonl.",
            buckets=[2**power for power in range(2, 16)],
        )
        self.call_seconds = meter.histogram(
            "ais_rollout_call_seconds",
            "Time of one Generate or Stream call, by gRPC status.",
            "`cancelled`: collectors give up, mostly by collector.group_deadline_seconds.",
            {"status": [grpc.StatusCode[name].name.lower() for name in _STATUSES]},
            buckets=_CALL_SECONDS,
        )
        self.rejected_requests = meter.counter(
            "ais_rollout_rejected_requests",
            "Calls refused, by the field that is wrong; `queue`: the waiting queue was full; `draining`; "
            "`policy`: it gave no distribution for a sample.",
            "`queue`: add replicas. `policy`: the weights give NaN, look at the trainer. A field: the caller is wrong.",
            {"field": REFUSED},
        )
        self._running = meter.gauge(
            "ais_rollout_running_sequences",
            "Sequences being sampled now.",
            "Far below the slots: there is too little work, the collector waits for the trainer.",
        )
        self._waiting = meter.gauge(
            "ais_rollout_waiting_sequences",
            "Sequences that wait for a slot.",
            "Staying above 0 on all replicas: add replicas or slots.",
        )
        self._slots = meter.gauge(
            "ais_rollout_slots", "Sequences that can be sampled at once.", "Set by rollout.slots."
        )
        # Weights.
        self._version = meter.gauge(
            "ais_rollout_policy_version",
            "Policy version served now: the number of optimizer batches behind the weights.",
            "Behind the trainer's: look at the pushes to this replica, and at its log for refusals.",
        )
        self.weight_swaps = meter.counter(
            "ais_rollout_weight_swaps",
            "Weight pushes by outcome: applied, unchanged (served already), or the HTTP status of the refusal.",
            "422: the weights are wrong or fail the probe. 409: of another base or trainer; the whole version follows. "
            "503: the replica cannot now.",
            {"outcome": _SWAPS},
        )
        self.weight_bytes = meter.counter(
            "ais_rollout_weight_received_bytes",
            "Bytes of weight pushes received over HTTP.",
            "Whole versions instead of deltas: see ais_weight_push_bytes_total by encoding.",
        )
        self.shared_shards = meter.counter(
            "ais_rollout_weight_shared_shards",
            "Files of versions that an offer said to lie in rollout.shared_directory, by outcome: taken; absent (not "
            "there, or not to be read) or damaged (another size or digest), which then come over HTTP.",
            "`absent`: rollout.shared_directory is not the directory that the trainer writes to, or belongs to another "
            "user. `damaged`: something else writes there.",
            {"outcome": SHARED},
        )
        self.weight_relays = meter.counter(
            "ais_rollout_weight_relays",
            "Versions passed on to another replica, by outcome: served, failed (the trainer sees to it), or refused, "
            "where no replica of the run is registered.",
            "`failed`: replicas do not reach each other. The trainer then sends itself, which is slower. "
            "`refused`: the "
            "trainer names a place where no replica is.",
            {"outcome": ("served", "failed", "refused")},
        )
        self.swap_paused_seconds = meter.histogram(
            "ais_rollout_weight_swap_paused_seconds",
            "Time generation stood still for a new policy version.",
            "A share of the time of a step that matters: push less often, or larger batches.",
            buckets=_STEP_SECONDS,
        )
        self.swap_staging_seconds = meter.histogram(
            "ais_rollout_weight_swap_staging_seconds",
            "Time to read, verify and quantise new weights, beside generation that goes on.",
            'Longer than a training step: the replica falls behind. Give it CPU, or use trainer.push.wire = "replica".',
            buckets=_CALL_SECONDS,
        )
        self.probe_rejections = meter.counter(
            "ais_rollout_probe_rejections",
            "Pushed versions whose log-probs were not finite or too far from the trainer's, by what became of the "
            "version before: kept (it goes on serving) or lost (it could not be put back; the replica ends).",
            "This engine computes something else than the trainer: compare versions of libraries and precision.",
            {"previous": ("kept", "lost")},
        )
        self._probe_gap = meter.gauge(
            "ais_rollout_probe_gap_nats",
            "Mean absolute difference of the replica's and the trainer's log-probs on the served version's probe, nats "
            "a token. NaN: the version came without one.",
            "Nearing ais_rollout_probe_allowed_gap_nats: this number format gets too coarse for the policy.",
        )
        self._probe_allowed = meter.gauge(
            "ais_rollout_probe_allowed_gap_nats",
            "The gap beyond which this probe refuses a version, nats a token. NaN: it came without a probe.",
            "Set by rollout.probe_tolerance, or by the precision.",
        )
        self._cache_maximum = meter.gauge(
            "ais_rollout_cache_maximum",
            "Largest magnitude of what an FP8 key-value cache with scales of whole layers has to hold, on the served "
            "version's probe. NaN: there is no such cache, no version was pushed yet, or the engine is vLLM.",
            'Growing from version to version with rollout.precision.kv_scale = "one": it nears the format\'s largest '
            "number, 448 for E4M3.",
            {"part": PARTS},
        )
        self._cache_clipped_share = meter.gauge(
            "ais_rollout_cache_clipped_share",
            "Share of these magnitudes that the scale clips: with calibrated scales that of each of the probe's "
            "sequences when the others alone give the scale. NaN: as for the maximum, or no probe.",
            "More than a few in ten thousand: the probe is too small to calibrate on, raise trainer.probe.sequences; "
            "or the scale of 1 is too small, take another rollout.precision.kv_scale.",
            {"part": PARTS},
        )
        self.show_probe(None, None)
        self.show_cache(None)
        # Registration.
        self.heartbeat_failures = meter.counter(
            "ais_rollout_heartbeat_failures",
            "Heartbeats that did not reach the registry.",
            "Redis is away, or this replica's network is: without heartbeats it gets no work.",
        )
        self._info = meter.gauge(
            "ais_replica_info",
            "The replica's name, engine and precision; the value is always 1. Join it by job and instance.",
            "Replicas of one run may differ on purpose: a BF16 one among FP8 ones is a control.",
            {"replica": (), "engine": (), "precision": ()},
        )

    def watch(self, engine: Engine, replica: str = "") -> None:
        """Reads the engine when metrics are scraped. `replica`: its name in the registry."""
        self._running.set_function(lambda: engine.load().running_sequences)
        self._waiting.set_function(lambda: engine.load().waiting_sequences)
        self._slots.set_function(lambda: engine.load().slots)
        self._version.set_function(lambda: engine.describe().version)
        about = engine.describe()
        self._info.labels(replica, about.engine, str(about.precision)).set(1)

    def count_refusal(self, field: str) -> None:
        """`field` comes from the request: an index in it, or a name that is not known, gets no series of its own."""
        name = ".".join(field.split(".")[:2])
        self.rejected_requests.labels(name if name in REFUSED else OTHER_FIELD).inc()

    def show_probe(self, gap: float | None, allowed: float | None) -> None:
        """Gap and allowed gap of the version that serves from now on; None: it came without a probe."""
        self._probe_gap.set(float("nan") if gap is None else gap)
        self._probe_allowed.set(float("nan") if allowed is None else allowed)

    def show_cache(self, ranges: Mapping[str, CacheRange] | None) -> None:
        """What the cache of the version that serves from now on has to hold."""
        for part in PARTS:
            known = ranges[part] if ranges else CacheRange(math.nan, math.nan)
            self._cache_maximum.labels(part).set(known.maximum)
            self._cache_clipped_share.labels(part).set(known.clipped_share)

    def finished(self, reason: FinishReason, tokens: int) -> None:
        """A sequence has ended."""
        self._finished[reason].inc()
        self.response_tokens.observe(tokens)

    def decode_step(self, seconds: float, tokens: int) -> None:
        self.step_seconds.observe(seconds)
        self.generated_tokens.inc(tokens)
