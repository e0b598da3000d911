"""Judges and verifiers for tests that are about something else."""

from __future__ import annotations

from collections.abc import Mapping

from ais.collector.judging.judge import Panel, judge_here
from ais.collector.rewards.opening import open_verifier
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings import TaskSettings
from ais.contracts.sampling import FinishReason


def own_judge(task: TaskSettings) -> Panel:
    """The task's reward, judged in this process."""
    components = [(one, judge_here(one.label, open_verifier(one))) for one in task.effective_reward]
    return Panel({task.effective_label: components}, "zero")


def task_verifier(task: TaskSettings) -> Verifier:
    """The verifier of a reward of one component."""
    (component,) = task.effective_reward
    return open_verifier(component, task.datasets)


def ended(text: str) -> Response:
    """A response that ended by itself."""
    return Response(text)


def cut_off(text: str) -> Response:
    """A response that was cut at max_new_tokens."""
    return Response(text, FinishReason.LENGTH)


def equal(response: str, answer: str, metadata: Mapping[str, object], finish_reason: str) -> float:
    """What a user's verifier may be: 1 for a response that is the answer."""
    return float(response == answer)
