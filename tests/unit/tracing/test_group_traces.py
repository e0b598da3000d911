"""`ais trace` on a run's files: what is known of a group that was trained, and what is said of one that was not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ais.contracts.journey.times import Journey
from ais.launcher.directory.run_directory import RunDirectory
from ais.runtime.settings import RunSettings
from ais.tracing.command import trace_of
from ais.tracing.queue import Live
from ais.tracing.search import NoGroupIdError, Trace, UnknownGroupError, Wanted, under_way
from ais.tracing.showing import as_json, as_text
from ais.trainer import group_log
from ais.trainer.groups.intake import Buffered
from ais.trainer.history import ledger
from tests.support.trainer_groups import make_entry, make_group

EPOCH = 1_764_000_000.0
CONFIG = "[run]\ngroups_per_batch = 2\nsteps = 4\nmax_staleness = 1\n"


def journey(begun: float, ordinal: int) -> Journey:
    """At a staleness of 1."""
    return Journey(begun, begun + 0.5, begun + 1, begun + 1.5, admitted_version=max(0, ordinal // 2 - 1))


def buffered(ordinal: int, version: int) -> Buffered:
    """A group that was drawn `ordinal` seconds after the step before, and in the queue 2 s later."""
    begun = EPOCH + 10 * version + ordinal
    group_id = f"demo-{ordinal}-1"
    group = replace(make_group(ordinal), group_id=group_id, journey=journey(begun, ordinal))
    return Buffered(make_entry(group, entry_id=f"{round((begun + 2) * 1000)}-0"), group)


def step_line(version: int, batch: list[Buffered]) -> dict[str, Any]:
    return {
        "step": version,
        "version": version,
        "digest": f"blake3:{version}",
        "time": EPOCH + 10 * version + 9,
        "step_seconds": 10.0,
        "phase_seconds": {"wait": 8.0, "forward_backward": 1.5, "optimizer": 0.5},
        "ordinals": [item.group.ordinal for item in batch],
        "group_ids": [item.group.group_id for item in batch],
        "incarnation": 1,
    }


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Three steps of four, two of them in a checkpoint."""
    directory = RunDirectory(tmp_path / "demo")
    directory.logs.mkdir(parents=True)
    directory.config.write_text(CONFIG)
    for version in (1, 2, 3):
        batch = [buffered(ordinal, version) for ordinal in (2 * version - 2, 2 * version - 1)]
        with directory.steps.open("a") as file:
            file.write(json.dumps(step_line(version, batch)) + "\n")
        group_log.append(directory.path, version, 1, batch)
        if version < 3:
            names, entries = zip(*((item.group.group_id, item.entry.entry_id) for item in batch), strict=True)
            ordinals = tuple(item.group.ordinal for item in batch)
            ledger.append(directory.path, ledger.Commit(version, version, "blake3", 1, ordinals, names, entries))
    return directory


def places(trace: Trace) -> dict[str, float]:
    return {one.place: round(one.time - EPOCH, 3) for one in trace.stations}


def test_a_trained_group_has_every_place_in_order_with_what_it_waited_for(run: RunDirectory) -> None:
    trace = trace_of(run, "demo-4-1")
    assert places(trace) == {
        "admitted": 19.0,  # version 1 allowed batch 2, at a staleness of 1
        "drawn": 34.0,
        "sent": 34.5,
        "first token": 34.6,
        "last token": 34.7,
        "answered": 35.0,
        "judged": 35.5,
        "queued": 36.0,
        "batch complete": 37.0,
        "taken": 37.0,
        "trained": 39.0,
    }
    text = "\n".join(as_text(trace))
    assert "demo-4-1 of run demo: trained in step 3, whose policy is version 3 (blake3:3); not in a checkpoint" in text
    assert "waited for the rest of its batch (by demo-5-1)" in text
    assert "most of it, 15.000 s: waited for a replica" in text


def test_the_checkpoint_that_holds_a_group_is_named(run: RunDirectory) -> None:
    assert trace_of(run, "2").summary.endswith("committed with step 2")


def test_what_admitted_a_group_stays_when_max_staleness_is_changed(run: RunDirectory) -> None:
    run.config.write_text(CONFIG.replace("max_staleness = 1", "max_staleness = 0"))
    assert places(trace_of(run, "demo-4-1"))["admitted"] == 19.0


def test_a_run_that_was_moved_finds_its_groups_by_the_names_that_they_have(run: RunDirectory) -> None:
    moved = RunDirectory(run.path.rename(run.path.with_name("demo-of-monday")))
    assert as_json(trace_of(moved, "demo-4-1")) == as_json(trace_of(moved, "4"))
    assert trace_of(moved, "demo-4-1").state == "trained"


def test_an_ordinal_alone_names_the_group_that_was_trained_in_its_place(run: RunDirectory) -> None:
    assert as_json(trace_of(run, "4")) == as_json(trace_of(run, "demo-4-1"))


def test_json_has_the_same_places_and_is_plain(run: RunDirectory) -> None:
    told = json.loads(json.dumps(as_json(trace_of(run, "demo-4-1"))))
    assert [one["place"] for one in told["stations"]] == list(places(trace_of(run, "4")))
    assert (told["state"], told["group_id"], told["batch"], told["step"]["version"]) == ("trained", "demo-4-1", 2, 3)
    assert told["group"]["replicas"] == ["replica-0"]


def test_of_a_run_of_an_earlier_release_the_queue_and_the_step_are_known(run: RunDirectory) -> None:
    run.groups.unlink()
    trace = trace_of(run, "demo-2-1")
    assert list(places(trace)) == ["queued", "taken", "trained"]
    assert "when it was sampled is not known" in "\n".join(as_text(trace))


def test_a_step_that_is_half_written_is_not_trained_yet(run: RunDirectory) -> None:
    whole = run.steps.read_text()
    run.steps.write_text(whole[:-20])
    assert trace_of(run, "4").state == "open"


def test_log_lines_of_every_process_are_shown_in_order_and_no_other_groups(run: RunDirectory) -> None:
    (run.logs / "collector.log").write_text(
        "2025-11-24T16:00:02.000Z WARNING collector: a group is started again group=demo-4-1\n"
        "2025-11-24T16:00:03.000Z WARNING collector: another group=demo-4-12\n"
        "2025-11-24T16:00:03.000Z WARNING collector: another's group=my-demo-4-1\n"
    )
    (run.logs / "trainer.log").write_text('{"time": "2025-11-24T16:00:01.000Z", "group": "demo-4-1", "message": "x"}\n')
    assert [line.process for line in trace_of(run, "demo-4-1").logs] == ["trainer", "collector"]


def test_the_end_of_a_long_line_is_searched_too(run: RunDirectory) -> None:
    long = "x" * 4_000
    (run.logs / "collector.log").write_text(f"2025-11-24T16:00:02.000Z WARNING collector: {long} group=demo-4-1\n")
    told = {"time": "2025-11-24T16:00:01.000Z", "message": long, "group": "demo-4-1"}
    (run.logs / "trainer.log").write_text(json.dumps(told) + "\n")
    lines = trace_of(run, "demo-4-1").logs
    assert [(line.process, line.time[17:19]) for line in lines] == [("trainer", "01"), ("collector", "02")]


def test_a_traceback_is_shown_whole_whichever_of_its_lines_names_the_group(run: RunDirectory) -> None:
    traceback = ["Traceback (most recent call last):", '  File "x.py", line 1, in <module>', "ValueError: no"]
    (run.logs / "collector.log").write_text(
        "2025-11-24T16:00:01.000Z ERROR   collector: before\nValueError: another\n"
        + "\n".join(["2025-11-24T16:00:02.000Z ERROR   collector: it fails group=demo-4-1", *traceback])
        + "\n2025-11-24T16:00:03.000Z ERROR   collector: it fails\nValueError: demo-4-1 is wrong\n"
    )
    trace = trace_of(run, "demo-4-1")
    assert [line.text.splitlines()[1:] for line in trace.logs] == [traceback, ["ValueError: demo-4-1 is wrong"]]
    assert "    ValueError: no" in list(as_text(trace))


def test_an_attempt_that_came_to_nothing_says_what_was_trained_instead(run: RunDirectory) -> None:
    (run.logs / "collector.log").write_text("2025-11-24T16:00:02.000Z WARNING collector: again group=demo-4-7\n")
    trace = trace_of(run, "demo-4-7")
    assert (trace.state, len(trace.logs)) == ("replaced", 1)
    assert "demo-4-1 was trained in step 3" in trace.summary


def test_a_group_that_is_not_trained_in_a_run_that_is_over_says_so(run: RunDirectory) -> None:
    assert "not trained: the newest step is 3. Its queue cannot be asked: the run has no Redis now" in (
        trace_of(run, "6").summary
    )


def test_a_group_behind_the_end_of_a_finished_run_waits_for_nothing(run: RunDirectory) -> None:
    live = Live(version=3, finished=True, entry=None, arrived=frozenset(), refusals=())
    found = under_way(run, RunSettings(steps=4, groups_per_batch=2, max_staleness=0), Wanted(7, None), live)
    assert found.summary == "not trained: the run has ended at version 3"


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ("nonsense", NoGroupIdError, "expected RUN-ORDINAL-ATTEMPT, such as demo-37-1"),
        ("other-3-1", UnknownGroupError, "names other-3-1; in the place of ordinal 3 demo-3-1 was trained"),
        ("8", UnknownGroupError, "the ordinals 0 to 7, not 8"),
        ("demo-4-9", UnknownGroupError, "in the place of ordinal 4 demo-4-1 was trained"),
        ("demo-6-1", UnknownGroupError, "no record, no log and no queue of the run names demo-6-1"),
    ],
)
def test_what_the_run_does_not_have_is_told(run: RunDirectory, asked: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        trace_of(run, asked)


def test_the_groups_file_is_rewound_with_the_steps_and_never_grows_without_bound(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    group_log.rewind(run.path, 2)
    assert [json.loads(line)["version"] for line in run.groups.read_text().splitlines()] == [1, 1, 2, 2]
    monkeypatch.setattr(group_log, "LARGEST_FILE", 10)
    group_log.append(run.path, 3, 2, [buffered(4, 3)])
    assert [json.loads(line)["version"] for line in run.groups.read_text().splitlines()] == [2, 3]
