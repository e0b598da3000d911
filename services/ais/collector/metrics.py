"""What the collector measures."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection
from functools import partial
from statistics import fmean

import grpc
from prometheus_client import CollectorRegistry

from ais.collector.admission import Admission
from ais.collector.judging.judgement import Outcome
from ais.collector.judging.means import ComponentMeans, ComponentNames
from ais.contracts.evaluation.results import EvaluationResult
from ais.contracts.trajectory import ScoredGroup
from ais.runtime.metrics.meter import Meter

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_JUDGEMENT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10, 30)
_TURNS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256)
_VERSIONS = (0, 1, 2, 3, 4, 6, 8, 16)
_LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_GROUPS = ("published", "duplicate", "failed", "busy", "refused", "handed_back", "spread", "unjudged")
_ENDINGS = ("done", "failed", "turns", "tokens", "seconds", "context")
_CALLS = ("malformed", *(status.name.lower() for status in grpc.StatusCode if status is not grpc.StatusCode.OK))


class CollectorMetrics:
    """One object for each registry."""

    def __init__(self, registry: CollectorRegistry, components: Collection[str] = (), batch: int = 1) -> None:
        """`components`: the names that the settings give to parts of the reward. `batch`: groups in one."""
        meter = Meter(registry)
        self.described = meter.described
        self._names = ComponentNames(components)
        self._means = ComponentMeans(self._names, batch)
        self._rewards: defaultdict[str, deque[float]] = defaultdict(partial(deque, maxlen=batch))
        """Mean rewards of the newest groups, by source."""
        # Groups.
        self.groups = meter.counter(
            "ais_collector_groups",
            "Groups by outcome: published, duplicate (its ordinal was in the queue already); started again: failed, "
            "busy (the replica is full or too slow), refused (it can never serve the prompt), handed_back (it leaves), "
            "spread (the versions of an episode are too far apart), unjudged (a response could not be judged).",
            "Many `failed`: look at the replicas' logs. `busy`: add replicas. `refused`: replicas with other settings.",
            {"outcome": _GROUPS},
        )
        self.failures = meter.counter(
            "ais_collector_call_failures",
            "Generation calls that came to nothing, by gRPC status, or `malformed` for what was not asked for.",
            "`unavailable`: replicas die or cannot be reached; `unauthenticated`: other tokens; `deadline_exceeded`: "
            "too slow for collector.group_deadline_seconds.",
            {"reason": _CALLS},
        )
        self.refused = meter.counter(
            "ais_collector_records_refused",
            "Answers refused at the border, by the field that was wrong, without indices; `other` for any unknown one.",
            "A replica answers something else than it was asked: the log names it. Other weights: see its own log.",
            {"field": ()},
        )
        self.running = meter.gauge(
            "ais_collector_running_groups",
            "Groups being sampled now.",
            "0 while groups are open: no replica may take them. Is one ready, with the newest weights? See its log.",
        )
        self.waiting = meter.gauge(
            "ais_collector_open_groups",
            "Groups admitted and waiting for a replica that may take them.",
            "Staying high: the fleet is too small or behind. Add replicas, or look at their versions.",
        )
        self._accepted = meter.gauge(
            "ais_collector_accepted_groups",
            "Groups published whose batch the trainer has not reached.",
            "At a whole batch or more without end: the trainer is the slow part.",
        )
        self._blocked = meter.gauge(
            "ais_collector_admission_blocked",
            "1 while everything that run.max_staleness admits is sampled and the collector waits for the trainer.",
            "Mostly 1: the trainer is the slow part. More staleness keeps replicas busy, at a price in mismatch.",
        )
        self.replicas = meter.gauge(
            "ais_collector_ready_replicas",
            "Replicas in the registry that accept work.",
            "Fewer than were started: look at the log of the missing one. 0: nothing is sampled.",
        )
        self.version = meter.gauge(
            "ais_collector_policy_version",
            "Newest policy version the trainer has announced.",
            "Behind the trainer's own for more than seconds: Redis is slow, or the collector is overloaded.",
        )
        self.idle_seconds = meter.gauge(
            "ais_collector_idle_seconds",
            "Time since a response arrived, a group was published or the trainer told something.",
            "Beyond collector.stall_seconds the log says what is waited for.",
        )
        self.group_seconds = meter.histogram(
            "ais_collector_group_seconds",
            "From sending a group to a replica to its publication, in seconds.",
            "Rising with the response length is natural; else look at waiting sequences and judgement times.",
            buckets=_SECONDS,
        )
        self.loop_lag = meter.histogram(
            "ais_collector_loop_lag_seconds",
            "How late the event loop was: what was due waited for so long because something else was computed.",
            "Above a tenth of a second: the process lacks CPU. Give it a core, or judge fewer responses at once.",
            buckets=_LAG_SECONDS,
        )
        self._tokens = meter.counter(
            "ais_collector_response_tokens",
            "Response tokens in published groups.",
            "No rise: nothing is published. Look at ais_collector_groups_total by outcome.",
        )
        self.redrawn = meter.counter(
            "ais_collector_redrawn_groups",
            "Groups thrown away because their rewards were all equal: another prompt is drawn from the reserve.",
            "Rising as fast as published groups: the task is too hard or solved. Use other prompts.",
        )
        self.redrawn_sequences = meter.counter(
            "ais_collector_redrawn_sequences", "Responses in those groups.", "As ais_collector_redrawn_groups_total."
        )
        self.redrawn_tokens = meter.counter(
            "ais_collector_redrawn_tokens",
            "Response tokens in those groups.",
            "This is compute that taught nothing: compare it with ais_collector_response_tokens_total.",
        )
        # Rewards.
        self._reward = meter.gauge(
            "ais_collector_reward_mean",
            "Mean reward of the last published group.",
            "Single groups scatter: judge by ais_reward_mean.",
        )
        self._source_reward = meter.gauge(
            "ais_source_reward_mean",
            "Mean reward by source of prompts, over the newest groups of it, as many as a batch has.",
            "One source falls while others rise: it loses the competition for the gradient. Change its weight.",
            {"source": ()},
        )
        self._components = meter.gauge(
            "ais_reward_component_mean",
            "Mean score of each named component of the rewards, over the newest groups, as many as a batch has. NaN: "
            "none was judged yet.",
            "A shaping component that rises while the main one does not is being gamed: lower its weight.",
            {"component": ()},
        )
        for component in components:
            self._components.labels(component).set(float("nan"))
        self.too_long = meter.gauge(
            "ais_collector_prompts_too_long",
            "Prompts left out of training because they leave no room for an answer, by source.",
            "Many: raise rollout.max_model_len, or shorten the template.",
            {"source": ()},
        )
        self._evaluated_components = meter.gauge(
            "ais_evaluation_component_mean",
            "Mean score of each named component in the last evaluation while training.",
            "Against ais_reward_component_mean: much lower is overfitting to the training prompts.",
            {"source": (), "component": ()},
        )
        self.evaluations = meter.counter(
            "ais_collector_evaluations",
            "Evaluations while training that have ended.",
            "No rise although evaluation.every_steps is set: look at the collector's log.",
        )
        self.evaluation_responses = meter.counter(
            "ais_collector_evaluation_responses",
            "Responses to held-out prompts, while training.",
            "A large share of all responses: evaluate less often or on fewer prompts.",
        )
        # Judging.
        self.judgements = meter.counter(
            "ais_collector_judgements",
            "Judgements of responses by workers and services, by component of the reward and outcome: judged; failed: "
            "overtime, memory, error, no_reward, left_processes, died, service.",
            "`error`, `no_reward`: a fault of the verifier, the log has its words. `overtime`, `memory`: limits in "
            "collector.judging. `service`: the reward service.",
            {"component": sorted(components), "outcome": [outcome.value for outcome in Outcome]},
        )
        self.judgement_seconds = meter.histogram(
            "ais_collector_judgement_seconds",
            "Time in which a worker or a service judged a response, or failed to, in seconds.",
            "If it nears the time of sampling, add collector.judging.workers.",
            {"component": sorted(components)},
            buckets=_JUDGEMENT_SECONDS,
        )
        self.service_calls = meter.counter(
            "ais_collector_reward_service_calls",
            "Requests to reward services, by component and outcome: an HTTP status, timeout, unreachable, malformed.",
            "Look at the service. `malformed`: it does not answer as docs/rewards.md says.",
            {"component": (), "outcome": ()},
        )
        self.service_seconds = meter.histogram(
            "ais_collector_reward_service_seconds",
            "Time of one request to a reward service, in seconds.",
            "Near the deadline of the component: the service needs more capacity.",
            {"component": ()},
            buckets=_JUDGEMENT_SECONDS,
        )
        self._episodes = meter.counter(
            "ais_collector_episodes",
            "Episodes by why they ended: done (the environment says so); failed (it gave no answer); no other turn was "
            "asked for: turns, tokens, seconds, context (the replicas' is full).",
            "Few `done`: give episodes more turns or tokens. `failed`: ais_collector_judgements_total says how. "
            "`context`: raise rollout.max_model_len.",
            {"ending": _ENDINGS},
        )
        self._episode_turns = meter.histogram(
            "ais_collector_episode_turns",
            "Turns of the policy in an episode.",
            "At the limit most of the time: the policy does not come to an end, or environment.turns is too small.",
            buckets=_TURNS,
        )
        self._begun_anew = meter.counter(
            "ais_collector_turns_begun_anew",
            "Turns, of groups in the queue, that read the conversation anew, because the chat template does not go on "
            "where it stopped, or that begin another branch.",
            "Each is read from its beginning by replica and trainer. A template that leaves earlier turns as they are "
            "(collector.prompt.chat_template) costs none.",
        )
        self._episode_versions = meter.histogram(
            "ais_collector_episode_versions_apart",
            "Policy versions between the oldest and the newest that sampled a token of an episode.",
            "Rising: episodes take longer than steps. environment.max_versions_apart bounds it.",
            buckets=_VERSIONS,
        )

    def admits(self, admission: Admission) -> None:
        """Shows where admission stands."""
        self.running.set(admission.running)
        self.waiting.set(admission.open)
        self._accepted.set(len(admission.accepted))
        self._blocked.set(admission.version >= 0 and not admission.running and not admission.open)

    def published(self, group: ScoredGroup) -> None:
        """A group is in the queue."""
        reward = fmean(group.rewards)
        self._reward.set(reward)
        self._rewards[group.task].append(reward)
        self._source_reward.labels(group.task).set(fmean(self._rewards[group.task]))
        self._tokens.inc(sum(len(trajectory.token_ids) for trajectory in group.trajectories))
        self._begun_anew.inc(sum(turn.begins_anew for one in group.trajectories for turn in one.turns))
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
