"""Who is missed, and when: the decision, and the thread that takes it."""

from __future__ import annotations

import logging
import queue
import threading
from typing import cast

import pytest
from torch.distributed import HashStore, PrefixStore

from ais.runtime.exits import EXIT_RANK_LOST
from ais.trainer.ranks.watchdog import Report, Sighting, Store, Watchdog, complaint

OWN = Report(beat=9, entered=5, phase="backward of a microbatch")


def at(entered: int, phase: str, silent: float = 0.5, left: bool = False) -> Sighting:
    return Sighting(Report(beat=3, entered=entered, phase=phase, left=left), silent)


def test_nothing_is_wrong_while_the_phase_is_young_and_everybody_reports() -> None:
    assert complaint(0, OWN, 9.0, {1: at(4, "forward of a microbatch")}, 10.0) is None


def test_whoever_is_behind_in_an_overdue_phase_is_missing_and_named_with_its_own_phase() -> None:
    others = {1: at(5, "backward of a microbatch"), 2: at(4, "forward of a microbatch")}
    found = complaint(0, OWN, 11.0, others, 10.0)
    assert found is not None
    assert "rank 0 waits in 'backward of a microbatch'" in found
    assert "rank 2 is missing, last seen in 'forward of a microbatch'" in found
    assert "rank 1" not in found


def test_a_silent_rank_is_missing_even_where_one_may_wait_for_ever() -> None:
    waiting = Report(beat=9, entered=5, phase="waiting for a command")
    found = complaint(1, waiting, 0.0, {0: at(5, "after step", silent=11.0), 2: at(5, "waiting for a command")}, 10.0)
    assert found is not None
    assert "rank 0 is missing, last seen in 'after step' and silent for 11 s" in found
    assert "rank 2" not in found


def test_a_rank_that_never_came_is_missing() -> None:
    found = complaint(0, OWN, 0.0, {1: Sighting(None, 11.0)}, 10.0)
    assert found is not None
    assert "rank 1 is missing, which has never reported" in found


def test_a_rank_that_has_left_may_be_silent() -> None:
    assert complaint(0, OWN, 0.0, {1: at(5, "end", silent=99.0, left=True)}, 10.0) is None


def test_where_all_have_entered_the_phase_the_network_is_suspected() -> None:
    found = complaint(0, OWN, 11.0, {1: at(5, "backward of a microbatch")}, 10.0)
    assert found is not None
    assert "the network between them" in found


def watched(store: HashStore) -> list[tuple[Watchdog, queue.Queue[int]]]:
    """The watchdogs of two ranks, and the exit codes they end their process with."""
    found = []
    for rank in (0, 1):
        ended: queue.Queue[int] = queue.Queue()
        watchdog = Watchdog(PrefixStore("test", store), rank, 2, deadline_seconds=0.5, end=ended.put)
        found.append((watchdog, ended))
    for watchdog, _ in found:
        watchdog.start()
    return found


def test_a_phase_that_another_rank_never_enters_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    (first, ended), (second, _) = watched(HashStore())
    with caplog.at_level(logging.CRITICAL), first.phase("sum of the correction"):
        assert ended.get(timeout=30) == EXIT_RANK_LOST
    second.stop()
    assert "rank 0 waits in 'sum of the correction'" in caplog.text
    assert "rank 1 is missing, last seen in 'start'" in caplog.text


def test_a_store_that_hangs_means_that_rank_0_which_keeps_it_does(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging:
        """Answers the first report, and then never again."""

        def __init__(self) -> None:
            self.reports = 0

        def set(self, key: str, value: str) -> None:
            self.reports += 1
            if self.reports > 1:
                threading.Event().wait()

    ended: queue.Queue[int] = queue.Queue()
    watchdog = Watchdog(cast(Store, Hanging()), 1, 3, deadline_seconds=0.5, end=ended.put)
    with caplog.at_level(logging.CRITICAL):
        watchdog.start()
        assert ended.get(timeout=30) == EXIT_RANK_LOST
    assert "rank 0 is missing" in caplog.text
    assert "rank 2" not in caplog.text


def test_ranks_that_leave_in_their_own_time_end_nothing() -> None:
    (first, first_ended), (second, second_ended) = watched(HashStore())
    with first.phase("waiting for a command", deadline=False):
        second.stop()
        with pytest.raises(queue.Empty):
            first_ended.get(timeout=1.5)  # three deadlines
    first.stop()
    assert second_ended.empty()
