"""What the collector measures."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry

from ais.collector.judging.means import ComponentMeans, ComponentNames
from ais.contracts.evaluation.results import EvaluationResult
from ais.contracts.trajectory import ScoredGroup
from ais.runtime.metrics import Meter

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_JUDGEMENT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10, 30)
_TURNS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256)
_VERSIONS = (0, 1, 2, 3, 4, 6, 8, 16)
_LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class CollectorMetrics:
    """One object for each registry."""

    def __init__(self, registry: CollectorRegistry, components: Collection[str] = (), batch: int = 1) -> None:
        """`components`: the names that the settings give to parts of the reward. `batch`: groups in one."""
        meter = Meter(registry)
        self._names = ComponentNames(components)
        self._means = ComponentMeans(self._names, batch)
        self.groups = meter.counter(
            "ais_collector_groups",
            "Groups by outcome: published, duplicate (its ordinal was in the queue already); started again: failed, "
            "busy (the replica is full or too slow), refused (it can never serve the prompt), handed_back (it leaves), "
            "spread (the versions of an episode are too far apart), unjudged (a response could not be judged).",
            ["outcome"],
        )
        self.failures = meter.counter(
            "ais_collector_call_failures",
            "Generation calls that came to nothing, by gRPC status, or `malformed` for what was not asked for.",
            ["reason"],
        )
        self.refused = meter.counter(
            "ais_collector_records_refused",
            "Answers refused at the border, by the field that was wrong, without indices; `other` for any unknown one.",
            ["field"],
        )
        self.running = meter.gauge("ais_collector_running_groups", "Groups being sampled now.")
        self.too_long = meter.gauge(
            "ais_collector_prompts_too_long",
            "Prompts left out of training because they leave no room for an answer, by source.",
            ["source"],
        )
        self.waiting = meter.gauge(
            "ais_collector_open_groups",
            "Groups admitted and waiting for a replica that may take them.",
        )
        self.replicas = meter.gauge("ais_collector_ready_replicas", "Replicas in the registry that accept work.")
        self.version = meter.gauge("ais_collector_policy_version", "Newest policy version the trainer has announced.")
        self.idle_seconds = meter.gauge(
            "ais_collector_idle_seconds",
            "Time since a response arrived, a group was published or the trainer told something.",
        )
        self.group_seconds = meter.histogram(
            "ais_collector_group_seconds",
            "From sending a group to a replica to its publication, in seconds.",
            buckets=_SECONDS,
        )
        self.loop_lag = meter.histogram(
            "ais_collector_loop_lag_seconds",
            "How late the event loop was: what was due waited for so long because something else was computed.",
            buckets=_LAG_SECONDS,
        )
        self._reward = meter.gauge("ais_collector_reward_mean", "Mean reward of the last published group.")
        self._tokens = meter.counter("ais_collector_response_tokens", "Response tokens in published groups.")
        self._components = meter.gauge(
            "ais_reward_component_mean",
            "Mean score of each named component of the rewards, over the newest groups, as many as a batch has. NaN: "
            "none was judged yet.",
            ["component"],
        )
        for component in components:
            self._components.labels(component).set(float("nan"))
        self._evaluated_components = meter.gauge(
            "ais_evaluation_component_mean",
            "Mean score of each named component in the last evaluation while training.",
            ["source", "component"],
        )
        self.evaluations = meter.counter("ais_collector_evaluations", "Evaluations while training that have ended.")
        self.evaluation_responses = meter.counter(
            "ais_collector_evaluation_responses", "Responses to held-out prompts, while training."
        )
        self.judgements = meter.counter(
            "ais_collector_judgements",
            "Judgements of responses by workers and services, by component of the reward and outcome: judged; failed: "
            "overtime, memory, error, no_reward, left_processes, died, service.",
            ["component", "outcome"],
        )
        self.judgement_seconds = meter.histogram(
            "ais_collector_judgement_seconds",
            "Time in which a worker or a service judged a response, or failed to, in seconds.",
            ["component"],
            buckets=_JUDGEMENT_SECONDS,
        )
        self.service_calls = meter.counter(
            "ais_collector_reward_service_calls",
            "Requests to reward services, by component and outcome: an HTTP status, timeout, unreachable, malformed.",
            ["component", "outcome"],
        )
        self.service_seconds = meter.histogram(
            "ais_collector_reward_service_seconds",
            "Time of one request to a reward service, in seconds.",
            ["component"],
            buckets=_JUDGEMENT_SECONDS,
        )
        self._episodes = meter.counter(
            "ais_collector_episodes",
            "Episodes by why they ended: done (the environment says so); no other turn was asked for: turns, tokens, "
            "seconds, context (the replicas' is full).",
            ["ending"],
        )
        self._episode_turns = meter.histogram(
            "ais_collector_episode_turns", "Turns of the policy in an episode.", buckets=_TURNS
        )
        self._episode_versions = meter.histogram(
            "ais_collector_episode_versions_apart",
            "Policy versions between the oldest and the newest that sampled a token of an episode.",
            buckets=_VERSIONS,
        )
        self.redrawn = meter.counter(
            "ais_collector_redrawn_groups",
            "Groups thrown away because their rewards were all equal: another prompt is drawn from the reserve.",
        )
        self.redrawn_sequences = meter.counter("ais_collector_redrawn_sequences", "Responses in those groups.")
        self.redrawn_tokens = meter.counter("ais_collector_redrawn_tokens", "Response tokens in those groups.")

    def published(self, group: ScoredGroup) -> None:
        """A group is in the queue."""
        self._reward.set(sum(group.rewards) / len(group.rewards))
        self._tokens.inc(sum(len(trajectory.token_ids) for trajectory in group.trajectories))
        for component, mean in self._means.take(group.components).items():
            self._components.labels(component).set(mean)

    def episode_ended(self, ending: str, turns: int, versions_apart: int) -> None:
        """An episode has ended, of training or of an evaluation."""
        self._episodes.labels(ending).inc()
        self._episode_turns.observe(turns)
        self._episode_versions.observe(versions_apart)

    def evaluated(self, result: EvaluationResult) -> None:
        """An evaluation has ended."""
        self.evaluations.inc()
        for score in result.sources:
            for component, estimate in score.components.items():
                if self._names.admits(component):
                    self._evaluated_components.labels(score.source, component).set(estimate.mean)

    def judged(self, component: str, outcome: str, seconds: float) -> None:
        """A worker or a service has judged a response, or failed to."""
        self.judgements.labels(component, outcome).inc()
        self.judgement_seconds.labels(component).observe(seconds)

    def service_called(self, component: str, outcome: str, seconds: float) -> None:
        """A reward service was asked."""
        self.service_calls.labels(component, outcome).inc()
        self.service_seconds.labels(component).observe(seconds)
