"""The supervision policy, rule by rule."""

from __future__ import annotations

import signal

import pytest

from ais.launcher.processes.supervision import (
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    STABLE_SECONDS,
    Fail,
    Finish,
    GiveUp,
    Restart,
    Role,
    Supervision,
)
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE

DEATHS_LIMIT = 5
ROLES = {
    "valkey": Role.SERVER,
    "rollout-0": Role.REPLICA,
    "rollout-1": Role.REPLICA,
    "collector": Role.COLLECTOR,
    "trainer": Role.TRAINER,
    "tracker-wandb": Role.TRACKER,
}
KILLED = -signal.SIGKILL


@pytest.fixture
def supervision() -> Supervision:
    supervision = Supervision(ROLES, DEATHS_LIMIT)
    for name in ROLES:
        supervision.started(name, now=0.0)
    return supervision


def die(supervision: Supervision, name: str, times: int, now: float = 0.0) -> object:
    """Dies at once after each start; gives the last decision."""
    decision: object = None
    for _ in range(times):
        supervision.started(name, now)
        decision = supervision.ended(name, KILLED, now)
    return decision


def test_a_trainer_that_ends_well_finishes_the_run(supervision: Supervision) -> None:
    assert supervision.ended("trainer", 0, now=100.0) == Finish()


@pytest.mark.parametrize("code", [EXIT_SETTINGS, EXIT_UNAVAILABLE])
def test_a_trainer_that_cannot_work_fails_the_run(supervision: Supervision, code: int) -> None:
    assert isinstance(supervision.ended("trainer", code, now=100.0), Fail)


def test_a_trainer_that_keeps_dying_fails_the_run(supervision: Supervision) -> None:
    assert isinstance(die(supervision, "trainer", times=DEATHS_LIMIT), Fail)


@pytest.mark.parametrize("name", ["valkey", "rollout-0", "collector", "trainer"])
def test_a_process_that_dies_is_started_again(supervision: Supervision, name: str) -> None:
    assert supervision.ended(name, KILLED, now=5.0) == Restart(FIRST_WAIT_SECONDS)


def test_the_wait_doubles_from_death_to_death(supervision: Supervision) -> None:
    waits = [die(supervision, "collector", times=1) for _ in range(DEATHS_LIMIT - 1)]
    assert waits == [
        Restart(min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**deaths)) for deaths in range(DEATHS_LIMIT - 1)
    ]


def test_a_long_life_makes_earlier_deaths_forgotten(supervision: Supervision) -> None:
    die(supervision, "collector", times=DEATHS_LIMIT - 1)
    supervision.started("collector", now=0.0)
    assert supervision.ended("collector", KILLED, now=STABLE_SECONDS) == Restart(FIRST_WAIT_SECONDS)


def test_an_orderly_end_is_no_death(supervision: Supervision) -> None:
    for _ in range(DEATHS_LIMIT + 1):
        supervision.started("collector", now=0.0)
        assert supervision.ended("collector", 0, now=0.0) == Restart(LONGEST_WAIT_SECONDS)


def test_a_collector_that_keeps_dying_fails_the_run(supervision: Supervision) -> None:
    assert isinstance(die(supervision, "collector", times=DEATHS_LIMIT), Fail)


def test_one_replica_that_keeps_dying_is_given_up_and_the_last_one_fails_the_run(supervision: Supervision) -> None:
    assert isinstance(die(supervision, "rollout-0", times=DEATHS_LIMIT), GiveUp)
    assert isinstance(die(supervision, "rollout-1", times=DEATHS_LIMIT), Fail)


@pytest.mark.parametrize("code", [EXIT_SETTINGS, EXIT_UNAVAILABLE])
@pytest.mark.parametrize("name", ["valkey", "collector", "trainer"])
@pytest.mark.parametrize("now", [0.0, 10 * STABLE_SECONDS])
def test_what_is_wrong_for_good_is_not_tried_again(supervision: Supervision, name: str, code: int, now: float) -> None:
    assert isinstance(supervision.ended(name, code, now), Fail)


@pytest.mark.parametrize("code", [EXIT_SETTINGS, EXIT_UNAVAILABLE])
def test_replicas_that_cannot_work_fail_the_run_with_the_last(supervision: Supervision, code: int) -> None:
    assert isinstance(supervision.ended("rollout-1", code, now=1.0), GiveUp)
    assert isinstance(supervision.ended("rollout-0", code, now=1.0), Fail)


@pytest.mark.parametrize("code", [EXIT_SETTINGS, EXIT_UNAVAILABLE])
def test_a_run_goes_on_without_a_tracker(supervision: Supervision, code: int) -> None:
    assert isinstance(supervision.ended("tracker-wandb", code, now=1.0), GiveUp)
