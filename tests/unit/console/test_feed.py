"""Following the files of a run: nothing is read twice, nothing half, and what was taken back is forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.console.feed import MOST_EVENTS, Feed
from ais.console.samples import Query, found
from ais.launcher.directory.lines import JsonLines
from ais.launcher.directory.run_directory import RunDirectory
from ais.runtime.files import replace_file


def lines(records: Iterable[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def step(number: int, **more: Any) -> dict[str, Any]:
    return {"step": number, "time": float(number), "incarnation": 1, "replicas": 2, "trusted": True, **more}


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


@given(st.lists(st.binary(max_size=30), max_size=20), st.data())
def test_a_file_that_grows_by_any_pieces_gives_each_record_once(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("lines") / "file.jsonl"
    records = [{"n": number, "text": text.hex()} for number, text in enumerate(texts)]
    whole = lines(records).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    log, got, at = JsonLines(path), [], 0
    with path.open("wb", buffering=0) as file:
        for cut in [*cuts, len(whole)]:
            file.write(whole[at:cut])
            at = cut
            got += log.new_records()
    assert got == records
    assert (log.count, log.behind) == (len(records), 0)


def test_who_stops_early_gets_the_rest_later_and_knows_how_much_it_is(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(lines([{"n": 1}, {"n": 2}, {"n": 3}]))
    log = JsonLines(path)
    assert next(log.new_records()) == {"n": 1}
    assert log.behind == len(lines([{"n": 2}, {"n": 3}]))
    assert list(log.new_records()) == [{"n": 2}, {"n": 3}]


def test_half_a_line_is_nothing_that_is_still_to_be_read(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(lines([{"n": 1}]) + '{"n": ')
    log = JsonLines(path)
    assert list(log.new_records()) == [{"n": 1}]
    assert log.behind == 0


def test_another_file_is_read_from_the_beginning_even_if_it_could_get_the_number_of_the_last(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(lines([{"n": 1}]))
    log = JsonLines(path)
    assert len(list(log.new_records())) == 1
    path.unlink()
    path.write_text(lines([{"n": 2}, {"n": 3}]))
    assert list(log.new_records()) == [{"n": 2}, {"n": 3}]
    assert (log.generation, log.count) == (2, 2)


def test_a_file_is_open_as_long_as_it_is_followed(tmp_path: Path) -> None:
    def opened() -> list[str]:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]  # the walk's own has ended
        return [file for link in links if (file := str(link.readlink())).startswith(str(tmp_path))]

    path = tmp_path / "steps.jsonl"
    path.write_text(lines([{"n": 1}]))
    log = JsonLines(path)
    for n in (2, 3):
        assert len(list(log.new_records())) == 1
        replace_file(path, lines([{"n": n}]))
    next(log.new_records())
    assert opened() == [str(path)]
    del log
    assert opened() == []


@pytest.mark.parametrize("in_place", [True, False])
def test_a_shorter_file_in_its_place_is_read_from_the_beginning(tmp_path: Path, in_place: bool) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(lines([{"n": 1}, {"n": 2}]))
    log = JsonLines(path)
    assert len(list(log.new_records())) == 2
    before = log.generation
    if in_place:
        path.write_text(lines([{"n": 1}]))
    else:
        replace_file(path, lines([{"n": 1}]))
    assert list(log.new_records()) == [{"n": 1}]
    assert (log.generation, log.count) == (before + 1, 1)


def test_steps_that_a_resume_took_back_are_forgotten_and_told_once_they_are_made_again(directory: RunDirectory) -> None:
    feed = Feed(directory)
    directory.steps.write_text(lines(step(number, reward_mean=0.1 * number) for number in range(1, 6)))
    feed.catch_up()
    assert (feed.columns.rows, feed.columns.last()["reward_mean"]) == (5, 0.5)
    before = feed.generation
    replace_file(directory.steps, lines(step(number, reward_mean=0.1) for number in range(1, 4)))
    with directory.steps.open("a") as file:
        later = step(4, incarnation=2, trusted=False, log_ratio_abs_mean=20.0, replicas=3)
        file.write(lines([later]) + '{"step": 5, "rew')
    feed.catch_up()
    assert feed.generation != before
    assert list(feed.columns.get("step")) == [1, 2, 3, 4]
    assert [event["kind"] for event in feed.events] == ["resumed", "fleet", "not trusted"]


def test_a_batch_whose_numbers_are_not_finite_is_told_as_that_and_not_as_a_mismatch(directory: RunDirectory) -> None:
    directory.steps.write_text(lines([step(1, trusted=False, log_ratio_abs_mean=None, skipped_updates=1)]))
    feed = Feed(directory)
    feed.catch_up()
    (event,) = feed.events
    assert event["kind"] == "update skipped"
    assert "not finite" in event["message"]


def test_events_are_new_also_when_as_many_are_kept_as_there_may_be(directory: RunDirectory) -> None:
    fleets = [step(number, replicas=number) for number in range(1, MOST_EVENTS + 10)]
    directory.steps.write_text(lines(fleets))
    feed = Feed(directory)
    feed.catch_up(seconds=60)
    before = feed.versions["events"]
    with directory.steps.open("a") as file:
        file.write(lines([step(len(fleets) + 1, replicas=1)]))
    feed.catch_up()
    assert len(feed.events) == MOST_EVENTS
    assert feed.versions["events"] != before


def test_a_run_that_begins_again_from_nothing_has_no_steps(directory: RunDirectory) -> None:
    feed = Feed(directory)
    directory.steps.write_text(lines([step(1), step(2)]))
    directory.samples.write_text(lines([{"step": 1, "prompt": "p", "response": "r"}]))
    feed.catch_up()
    assert (feed.columns.rows, len(feed.samples.items)) == (2, 1)
    replace_file(directory.steps, "")
    replace_file(directory.samples, "")
    feed.catch_up()
    assert (feed.columns.rows, len(feed.samples.items)) == (0, 0)


def test_a_long_file_is_taken_in_parts(directory: RunDirectory) -> None:
    directory.steps.write_text(lines(step(number) for number in range(1, 50)))
    feed = Feed(directory)
    feed.catch_up(seconds=0.0)
    assert feed.columns.rows == 1
    assert feed.behind > 0
    while feed.behind:
        feed.catch_up(seconds=0.0)
    assert feed.columns.rows == 49


def test_half_a_surrogate_pair_which_json_may_hold_is_read_as_json_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    records = [{"text": "\ud83d"}, {"text": "\U0001f600"}, {"number": float("inf")}]
    path.write_text(lines(records))
    assert list(JsonLines(path).new_records()) == records


def test_what_is_none_of_its_records_is_left_out(directory: RunDirectory) -> None:
    directory.samples.write_text(
        'no json\n[]\n{"step": 1}\n' + lines([{"step": 2, "prompt": "p", "response": "r\u2028", "reward": 1.0}])
    )
    directory.evaluations.write_text(lines([{"step": 1}]))
    directory.warnings.write_text(lines([{"time": 1.0, "version": 3, "kind": "gradient_zero", "message": "<b>"}, {}]))
    feed = Feed(directory)
    feed.catch_up()
    assert [sample["response"] for sample in feed.samples.items] == ["r\u2028"]
    assert feed.scores == []
    assert [(event["step"], event["kind"], event["message"]) for event in feed.events] == [(3, "gradient zero", "<b>")]


SAMPLES = [
    {
        "step": number // 3,
        "prompt": f"ask {number}",
        "response": f"say {number}",
        "answer": "ÄPFEL" if number % 2 else "",
    }
    for number in range(30)
]


@given(
    text=st.sampled_from(["", "ask 1", "SAY", "äpfel", "nowhere"]),
    first=st.integers(0, 12),
    last=st.none() | st.integers(0, 12),
    skip=st.integers(0, 40),
    limit=st.integers(1, 40),
)
def test_samples_are_found_by_text_and_step_the_newest_first(
    text: str, first: int, last: int | None, skip: int, limit: int
) -> None:
    expected = [
        sample
        for sample in SAMPLES[::-1]
        if first <= sample["step"] <= (12 if last is None else last)  # type: ignore[operator]
        and any(text.lower() in str(sample[name]).lower() for name in ("prompt", "response", "answer"))
    ]
    answer = found(SAMPLES, Query(text, first, last, skip, limit))
    assert (answer["total"], answer["found"]) == (30, len(expected))
    assert answer["samples"] == expected[skip : skip + limit]
