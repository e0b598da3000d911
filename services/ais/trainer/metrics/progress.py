"""Metrics of the run's progress: how far it is, whether it lives, what is durable."""

from __future__ import annotations

import shutil

from ais.runtime.metrics.meter import Meter
from ais.trainer.metrics.numbers import SECONDS_BUCKETS
from ais.trainer.metrics.state import RunStateMetrics, State
from ais.trainer.record import StepRecord
from ais.trainer.settings import Settings

PHASES = ("wait", "prepare", "forward_backward", "correction", "optimizer", "probe", "serialise", "other")
WARNINGS = (
    "stalled",
    "rewards_equal",
    "responses_truncated",
    "gradient_zero",
    "uncorrected",
    "rejected",
    "reward_collapsed",
    "entropy_collapsed",
    "head_differs",
)


class ProgressMetrics:
    """One trainer's."""

    def __init__(self, meter: Meter) -> None:
        self._run_steps = 0
        self._info = meter.gauge(
            "ais_training_info",
            "How the run trains; the value is always 1. Join it by job and instance to tell runs apart.",
            "Two runs that differ in more than was meant: compare their config.toml.",
            {"method": (), "weight_level": (), "objective": (), "advantage": (), "model": ()},
        )
        self._state = RunStateMetrics(meter)
        self._steps_wanted = meter.gauge(
            "ais_run_steps", "Steps that the run is to have.", "Set by run.steps; a finished run can be given more."
        )
        self._steps_left = meter.gauge(
            "ais_run_left_steps",
            "Steps that are left.",
            "Not falling: see ais_trainer_waiting_seconds and the phases of a step.",
        )
        self._free = meter.gauge(
            "ais_run_directory_free_bytes",
            "Free bytes of the disk that the run's directory is on.",
            "Make room before it ends: a commit that cannot be written ends the trainer. Fewer checkpoints: "
            "trainer.checkpoints.keep.",
        )
        self._version = meter.gauge(
            "ais_policy_version",
            "Version of the policy: batches trained.",
            "Not rising: the trainer waits (ais_trainer_waiting_seconds) or has ended.",
        )
        self._steps = meter.counter(
            "ais_trainer_steps",
            "Batches trained, those with a skipped update included.",
            "Its rate is the speed of the run; where the time goes is in ais_trainer_phase_seconds.",
        )
        self._tokens = meter.counter(
            "ais_trainer_tokens",
            "Response tokens trained on.",
            "As ais_trainer_steps_total; tokens a step follow the response length.",
        )
        self._step_seconds = meter.histogram(
            "ais_trainer_step_seconds",
            "Seconds from the end of one step to the end of the next.",
            "Find the phase that grew in ais_trainer_phase_seconds.",
            buckets=SECONDS_BUCKETS,
        )
        self._phases = meter.histogram(
            "ais_trainer_phase_seconds",
            "Seconds of a step spent in each phase.",
            "`wait`: rollouts are the slow part, add replicas. `forward_backward`: add ranks. `serialise`, `probe`: a "
            "slow disk, or trainer.probe is large.",
            {"phase": PHASES},
            buckets=SECONDS_BUCKETS,
        )
        self.waiting_seconds = meter.gauge(
            "ais_trainer_waiting_seconds",
            "How long the next batch has been waited for; 0 while one is trained.",
            "Beyond trainer.stall_seconds the log says what is missing: replicas, weights, groups that were lost.",
        )
        self.warnings = meter.counter(
            "ais_trainer_warnings",
            "Warnings that a person should see, by what they are about; warnings.jsonl of the run has their words.",
            "Read the words: they name the likely cause and the setting.",
            {"kind": WARNINGS},
        )
        self.committed_version = meter.gauge(
            "ais_trainer_committed_version",
            "Policy version of the newest checkpoint: where training would resume.",
            "Far behind ais_policy_version: commits are slow or fail, and a crash would lose that many steps.",
        )
        self.commit_seconds = meter.histogram(
            "ais_trainer_commit_seconds",
            "Seconds from the copy of the training state to the acknowledgement, most of them beside training.",
            "Longer than trainer.checkpoints.every_steps steps: the next commit waits for it. A slow disk.",
            buckets=SECONDS_BUCKETS,
        )
        self.incarnation = meter.gauge(
            "ais_trainer_incarnation",
            "How many trainers this run has had, this one included.",
            "Rising without anybody restarting it: the trainer dies. Its log before the restart says why.",
        )

    def begin(self, settings: Settings) -> None:
        """A trainer of this run begins."""
        run, objective, correction = settings.run, settings.trainer.objective, settings.correction
        model = run.model.name if run.model.name != "model" else run.model.parent.name
        self._info.labels(correction.method, correction.level, objective.name, objective.advantage, model).set(1)
        self._run_steps = run.steps
        self._steps_wanted.set(run.steps)
        self._free.set_function(lambda: shutil.disk_usage(run.path).free)
        self.enter("training")

    def enter(self, state: State) -> None:
        """The trainer is in `state` from now on."""
        self._state.enter(state)

    def at(self, version: int) -> None:
        """The policy is at `version`."""
        self._version.set(version)
        self._steps_left.set(max(0, self._run_steps - version))

    def record(self, record: StepRecord) -> None:
        """Shows a finished step."""
        self.at(record.version)
        self._steps.inc()
        self._tokens.inc(record.tokens)
        self._step_seconds.observe(record.step_seconds)
        for phase, seconds in record.phase_seconds.items():
            self._phases.labels(phase=phase).observe(seconds)
