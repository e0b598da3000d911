"""Rows of a JSONL file are checked before anything starts, and evaluation has prompts that training never sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ais.collector.prompts.prompts import Split, TaskError
from ais.collector.settings import TaskSettings
from ais.collector.tasks.jsonl import JsonlTask, is_held_out, open_jsonl, read_jsonl


def settings_for(file: Path, **others: Any) -> TaskSettings:
    return TaskSettings(name="jsonl", file=file, **others)


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def numbered(path: Path, rows: int, first: int = 0) -> Path:
    return write_rows(path, [{"prompt": f"q{i}", "answer": i} for i in range(first, first + rows)])


def texts(task: JsonlTask) -> set[str]:
    return {prompt.text for prompt in task.prompts}


def read(file: Path) -> list[str]:
    return [row.prompt.text for row in read_jsonl(file, settings_for(file))]


GOOD = '{"prompt": "a", "answer": "b"}\n'


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + GOOD.encode() * 1,
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\r").encode(),
        GOOD.rstrip().encode(),
        b"\n\n" + GOOD.encode() + b"   \n",
    ],
)
def test_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path, data: bytes) -> None:
    assert read(write(tmp_path / "t.jsonl", data)) == ["a"]


def test_line_separators_inside_a_prompt_do_not_end_its_line(tmp_path: Path) -> None:
    row = {"prompt": "a\u2028b\u0085c\x0b\x0c\x1c d", "answer": "d"}
    assert read(write(tmp_path / "t.jsonl", json.dumps(row, ensure_ascii=False) + "\n")) == [row["prompt"]]


@pytest.mark.parametrize(
    ("answer", "read_as"), [("b", "b"), (1, "1"), (-2.5, "-2.5"), (0, "0"), (10**300, str(10**300)), (" x ", " x ")]
)
def test_an_answer_is_text_or_a_number(tmp_path: Path, answer: object, read_as: str) -> None:
    file = write_rows(tmp_path / "t.jsonl", [{"prompt": "a", "answer": answer}])
    (row,) = read_jsonl(file, settings_for(file))
    assert row.prompt.answer == read_as


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("not json", "is not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"prompt": "a"}', "answer: the key is missing"),
        ('{"answer": "a"}', "prompt: the key is missing"),
        ('{"prompt": "a", "answer": null}', "answer: expected text or a finite number, got null"),
        ('{"prompt": "a", "answer": ["b"]}', r'answer: expected text or a finite number, got \["b"\]'),
        ('{"prompt": "a", "answer": {"b": 1}}', "answer: expected"),
        ('{"prompt": "a", "answer": true}', "answer: expected text or a finite number, got true"),
        ('{"prompt": "a", "answer": 1e999}', "answer: expected text or a finite number"),
        ('{"prompt": "a", "answer": NaN}', "NaN is not JSON"),
        ('{"prompt": "a", "answer": "  "}', "answer: expected something to compare with"),
        ('{"prompt": "a", "answer": ' + "9" * 5000 + "}", "a number of 5000 digits is too long"),
        ('{"prompt": "a", "answer": "b", "n": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ('{"prompt": 1, "answer": 1}', "prompt: expected text, got 1"),
        ('{"prompt": null, "answer": 1}', "prompt: expected text, got null"),
        ('{"prompt": "", "answer": 1}', "prompt: must not be empty"),
        ('{"prompt": " \\n\\t", "answer": 1}', "prompt: must not be empty"),
        ('{"prompt": "a\\ud83d", "answer": 1}', "prompt: half of a surrogate pair"),
        ('{"prompt": "a", "answer": "\\udc00"}', "answer: half of a surrogate pair"),
        ('{"prompt": "a", "answer": 1, "id": "\\ud800"}', "id: half of a surrogate pair"),
        ('{"prompt": "a", "answer": 1, "metadata": {"k": ["\\ud800"]}}', "metadata: half of a surrogate pair"),
        ('{"prompt": "a", "answer": "b", "metadata": 1}', "metadata: expected an object, got 1"),
        ('{"prompt": "a", "answer": "b", "id": []}', r"id: expected text or a whole number, got \[\]"),
        ('{"prompt": "a", "answer": "b", "id": ""}', "id: expected 1 to 256 characters"),
        ('{"prompt": "a", "answer": "b", "id": "' + "x" * 257 + '"}', "id: expected 1 to 256 characters, got 257"),
        ('{"prompt": "a", "answer": "b", "m": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply"),
        ('{"prompt": "a", "answer": "b"}{"prompt": "a", "answer": "b"}', "is not JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_file_line_and_field(
    tmp_path: Path, row: str, complaint: str
) -> None:
    file = write(tmp_path / "bad.jsonl", f"{GOOD}\n{row}\n")
    with pytest.raises(TaskError, match=rf"bad\.jsonl, line 3: {complaint}"):
        read_jsonl(file, settings_for(file))


def test_several_bad_rows_are_named_together_and_the_rest_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.jsonl", GOOD + '{"prompt": "a", "answer": null}\n' * 100)
    with pytest.raises(TaskError) as refused:
        read_jsonl(file, settings_for(file))
    lines = str(refused.value).split("\n")
    assert [line.split(":")[0].rpartition(" ")[2] for line in lines[:-1]] == ["2", "3", "4", "5", "6"]
    assert lines[-1] == "... and 95 more"


@pytest.mark.parametrize("ids", [["a", "b", "a"], [1, "1"], ["t-2", None]])
def test_two_rows_of_one_id_are_refused_with_both_lines(tmp_path: Path, ids: list[Any]) -> None:
    file = write_rows(tmp_path / "t.jsonl", [{"prompt": f"q{i}", "answer": 1, "id": id_} for i, id_ in enumerate(ids)])
    with pytest.raises(TaskError, match=rf"line {len(ids)}: id: .* is that of line 1 too"):
        read_jsonl(file, settings_for(file))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (GOOD.encode("utf-16"), "looks like UTF-16"),
        (GOOD.encode("utf-16-le"), "looks like UTF-16"),
        (GOOD.encode() + '{"prompt": "é", "answer": 1}'.encode("latin-1"), "line 2 is not UTF-8"),
        (b"", "no prompts"),
        (b"\n \n", "no prompts"),
    ],
)
def test_a_file_that_is_no_text_or_empty_is_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    file = write(tmp_path / "t.jsonl", data)
    with pytest.raises(TaskError, match=complaint):
        read_jsonl(file, settings_for(file))


@pytest.mark.parametrize("kind", ["absent", "a directory"])
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    file = tmp_path if kind == "a directory" else tmp_path / "absent.jsonl"
    with pytest.raises(TaskError, match=file.name):
        read_jsonl(file, settings_for(file))


def test_an_empty_answer_is_left_to_reasoning_gym_to_judge(tmp_path: Path) -> None:
    row = {"prompt": "a", "answer": "", "metadata": {"source_dataset": "countdown"}}
    file = write_rows(tmp_path / "t.jsonl", [row])
    assert len(read_jsonl(file, settings_for(file, verifier="reasoning_gym"))) == 1


def test_an_epoch_has_every_prompt_once_and_the_next_has_another_order(tmp_path: Path) -> None:
    task = open_jsonl(settings_for(numbered(tmp_path / "t.jsonl", 40)), 0, Split.TRAIN)
    rows = len(task.prompts)
    epochs = [[task.prompt(epoch * rows + i).text for i in range(rows)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(texts(task))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("rows", [2, 3, 10, 1000])
def test_no_prompt_is_both_trained_on_and_evaluated(tmp_path: Path, rows: int) -> None:
    settings = settings_for(numbered(tmp_path / "t.jsonl", rows))
    train, held_out = (texts(open_jsonl(settings, 0, split)) for split in (Split.TRAIN, Split.HELD_OUT))
    assert train
    assert held_out
    assert not train & held_out
    assert train | held_out == {f"q{i}" for i in range(rows)}


def test_the_share_kept_apart_is_the_one_asked_for(tmp_path: Path) -> None:
    file = numbered(tmp_path / "t.jsonl", 5000)
    for fraction in (0.02, 0.1, 0.5):
        held_out = open_jsonl(settings_for(file, held_out_fraction=fraction), 0, Split.HELD_OUT)
        assert len(held_out.prompts) / 5000 == pytest.approx(fraction, rel=0.2)


def test_rows_that_come_or_go_move_no_other_row_and_repeated_prompts_stay_together(tmp_path: Path) -> None:
    few = open_jsonl(settings_for(numbered(tmp_path / "few.jsonl", 300)), 0, Split.HELD_OUT)
    more = open_jsonl(settings_for(numbered(tmp_path / "more.jsonl", 900)), 7, Split.HELD_OUT)
    assert texts(few) == {text for text in texts(more) if int(text[1:]) < 300}
    twice = [{"prompt": f"q{i % 50}", "answer": i} for i in range(100)]
    settings = settings_for(write_rows(tmp_path / "twice.jsonl", twice))
    train, held_out = (texts(open_jsonl(settings, 0, split)) for split in (Split.TRAIN, Split.HELD_OUT))
    assert not train & held_out
    assert all(is_held_out(text, 0.1) for text in held_out)


def test_a_file_of_one_prompt_cannot_be_evaluated_on(tmp_path: Path) -> None:
    settings = settings_for(numbered(tmp_path / "t.jsonl", 1))
    assert len(open_jsonl(settings, 0, Split.TRAIN).prompts) == 1
    with pytest.raises(TaskError, match="no held-out prompts"):
        open_jsonl(settings, 0, Split.HELD_OUT)


def test_evaluation_reads_the_held_out_file_and_training_leaves_out_what_both_have(tmp_path: Path) -> None:
    file, held_out_file = numbered(tmp_path / "a.jsonl", 10), numbered(tmp_path / "b.jsonl", 5, first=8)
    settings = settings_for(file, held_out_file=held_out_file)
    held_out, train = (open_jsonl(settings, 0, split) for split in (Split.HELD_OUT, Split.TRAIN))
    assert held_out.name == train.name == "a"
    assert texts(held_out) == {f"q{i}" for i in range(8, 13)}
    assert texts(train) == {f"q{i}" for i in range(8)}


@pytest.mark.parametrize("split", [Split.TRAIN, Split.HELD_OUT])
def test_prompts_that_do_not_fit_are_refused_with_their_lines_or_left_out(tmp_path: Path, split: Split) -> None:
    rows = [{"prompt": f"{'long ' * (i % 2)}{i}", "answer": i} for i in range(100)]
    settings = settings_for(write_rows(tmp_path / "t.jsonl", rows), held_out_fraction=0.5)

    def fits(text: str) -> bool:
        return "long" not in text

    with pytest.raises(TaskError, match=r"t\.jsonl, line \d+: prompt: longer than the replicas' context"):
        open_jsonl(settings, 0, split, fits)
    skipping = settings.model_copy(update={"too_long": "skip"})
    kept = open_jsonl(skipping, 0, split, fits)
    assert len(kept.prompts) > 5
    assert all(fits(prompt.text) for prompt in kept.prompts)
    with pytest.raises(TaskError, match=f"no {split} prompts"):
        open_jsonl(skipping, 0, split, lambda _: False)
