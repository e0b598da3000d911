"""Rows of JSON files are checked before anything starts, and evaluation has prompts that training never sees."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ais.collector.prompts.prompts import Prompt, Question, Split, TaskError
from ais.collector.settings import TaskSettings
from ais.collector.tasks.splits import is_held_out
from ais.collector.tasks.tables import json_files
from ais.collector.tasks.tables.json_files import JsonRows
from ais.collector.tasks.tables.prompts import PromptReader
from ais.collector.tasks.tables.table import TableTask, survey
from ais.collector.tasks.task import open_task


def settings_for(file: Path, **others: Any) -> TaskSettings:
    return TaskSettings(name="jsonl", file=file, **others)


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def numbered(path: Path, rows: int, first: int = 0) -> Path:
    return write_rows(path, [{"prompt": f"q{i}", "answer": i} for i in range(first, first + rows)])


def opened(settings: TaskSettings, seed: int, split: Split, **others: Any) -> TableTask:
    task = open_task(settings, seed, split, **others)
    assert isinstance(task, TableTask)
    return task


def texts(task: TableTask) -> set[str]:
    return {task.prompt(ordinal).text for ordinal in range(len(task))}


def prompts(*files: Path, needs_answer: bool = True) -> list[Prompt]:
    rows = JsonRows(files)
    reader = PromptReader.of(TaskSettings().columns, "label", needs_answer)
    table = survey(rows, reader, f"task file {files[0]}", lambda _: True)
    return [table.prompt(number) for number in range(len(rows))]


def read(*files: Path) -> list[str]:
    return [prompt.text for prompt in prompts(*files)]


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
    (prompt,) = prompts(file)
    assert prompt.answer == read_as


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("not json", r"is not JSON \(Expecting value, column 1\)"),
        ('{"prompt": "a" "answer": 1}', "is not JSON .*column 16"),
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
        ('{"prompt": 1, "answer": 1}', "prompt: expected text, or a list of messages, got 1"),
        ('{"prompt": null, "answer": 1}', "prompt: expected text, or a list of messages, got null"),
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
        prompts(file)


def test_several_bad_rows_are_named_together_and_the_rest_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.jsonl", GOOD + '{"prompt": "a", "answer": null}\n' * 100)
    with pytest.raises(TaskError) as refused:
        prompts(file)
    lines = str(refused.value).split("\n")
    assert [line.split(":")[0].rpartition(" ")[2] for line in lines[:-1]] == ["2", "3", "4", "5", "6"]
    assert lines[-1] == "... and 95 more"


@pytest.mark.parametrize("ids", [["a", "b", "a"], [1, "1"], ["t-2", None]])
def test_two_rows_of_one_id_are_refused_with_both_lines(tmp_path: Path, ids: list[Any]) -> None:
    file = write_rows(tmp_path / "t.jsonl", [{"prompt": f"q{i}", "answer": 1, "id": id_} for i, id_ in enumerate(ids)])
    with pytest.raises(TaskError, match=rf"line {len(ids)}: id: .* is that of .*line 1 too"):
        prompts(file)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (GOOD.encode("utf-16"), "looks like UTF-16"),
        (GOOD.encode("utf-16-le"), "looks like UTF-16"),
        (GOOD.encode() + '{"prompt": "é", "answer": 1}'.encode("latin-1"), "line 2: is not UTF-8"),
        (b"", "no prompts"),
        (b"\n \n", "no prompts"),
    ],
)
def test_a_file_that_is_no_text_or_empty_is_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    file = write(tmp_path / "t.jsonl", data)
    with pytest.raises(TaskError, match=complaint):
        prompts(file)


@pytest.mark.parametrize("kind", ["absent", "a directory"])
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    file = tmp_path if kind == "a directory" else tmp_path / "absent.jsonl"
    with pytest.raises(TaskError, match=file.name):
        prompts(file)


def test_an_empty_answer_is_left_to_reasoning_gym_to_judge(tmp_path: Path) -> None:
    row = {"prompt": "a", "answer": "", "metadata": {"source_dataset": "countdown"}}
    file = write_rows(tmp_path / "t.jsonl", [row])
    assert len(prompts(file, needs_answer=False)) == 1


def test_an_epoch_has_every_prompt_once_and_the_next_has_another_order(tmp_path: Path) -> None:
    task = opened(settings_for(numbered(tmp_path / "t.jsonl", 40)), 0, Split.TRAIN)
    rows = len(task)
    epochs = [[task.prompt(epoch * rows + i).text for i in range(rows)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(texts(task))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("rows", [2, 3, 10, 1000])
def test_no_prompt_is_both_trained_on_and_evaluated(tmp_path: Path, rows: int) -> None:
    settings = settings_for(numbered(tmp_path / "t.jsonl", rows))
    train, held_out = (texts(opened(settings, 0, split)) for split in (Split.TRAIN, Split.HELD_OUT))
    assert train
    assert held_out
    assert not train & held_out
    assert train | held_out == {f"q{i}" for i in range(rows)}


def test_the_share_kept_apart_is_the_one_asked_for(tmp_path: Path) -> None:
    file = numbered(tmp_path / "t.jsonl", 5000)
    for fraction in (0.02, 0.1, 0.5):
        held_out = opened(settings_for(file, held_out_fraction=fraction), 0, Split.HELD_OUT)
        assert len(held_out) / 5000 == pytest.approx(fraction, rel=0.2)


def test_rows_that_come_or_go_move_no_other_row_and_repeated_prompts_stay_together(tmp_path: Path) -> None:
    few = opened(settings_for(numbered(tmp_path / "few.jsonl", 300)), 0, Split.HELD_OUT)
    more = opened(settings_for(numbered(tmp_path / "more.jsonl", 900)), 7, Split.HELD_OUT)
    assert texts(few) == {text for text in texts(more) if int(text[1:]) < 300}
    twice = [{"prompt": f"q{i % 50}", "answer": i} for i in range(100)]
    settings = settings_for(write_rows(tmp_path / "twice.jsonl", twice))
    train, held_out = (texts(opened(settings, 0, split)) for split in (Split.TRAIN, Split.HELD_OUT))
    assert not train & held_out
    assert all(is_held_out(text, 0.1) for text in held_out)


def test_a_file_of_one_prompt_cannot_be_evaluated_on(tmp_path: Path) -> None:
    settings = settings_for(numbered(tmp_path / "t.jsonl", 1))
    assert len(opened(settings, 0, Split.TRAIN)) == 1
    with pytest.raises(TaskError, match="no held-out prompts"):
        opened(settings, 0, Split.HELD_OUT)


def test_evaluation_reads_the_held_out_file_and_training_leaves_out_what_both_have(tmp_path: Path) -> None:
    file, held_out_file = numbered(tmp_path / "a.jsonl", 10), numbered(tmp_path / "b.jsonl", 5, first=8)
    settings = settings_for(file, held_out_file=held_out_file)
    held_out, train = (opened(settings, 0, split) for split in (Split.HELD_OUT, Split.TRAIN))
    assert held_out.name == train.name == "a"
    assert texts(held_out) == {f"q{i}" for i in range(8, 13)}
    assert texts(train) == {f"q{i}" for i in range(8)}


@pytest.mark.parametrize("split", [Split.TRAIN, Split.HELD_OUT])
def test_prompts_that_do_not_fit_are_refused_with_their_lines_or_left_out(tmp_path: Path, split: Split) -> None:
    rows = [{"prompt": f"{'long ' * (i % 2)}{i}", "answer": i} for i in range(100)]
    settings = settings_for(write_rows(tmp_path / "t.jsonl", rows), held_out_fraction=0.5)

    def fits(text: Question) -> bool:
        return "long" not in text

    with pytest.raises(TaskError, match=r"t\.jsonl, line \d+: prompt: longer than the replicas' context"):
        opened(settings, 0, split, fits=fits)
    skipping = settings.model_copy(update={"too_long": "skip"})
    kept = opened(skipping, 0, split, fits=fits)
    assert len(kept) > 5
    assert all(fits(text) for text in texts(kept))
    with pytest.raises(TaskError, match=f"no {split} prompts"):
        opened(skipping, 0, split, fits=lambda _: False)


def test_one_file_several_or_a_pattern_give_their_rows_one_after_another(tmp_path: Path) -> None:
    first, second = numbered(tmp_path / "a.jsonl", 3), numbered(tmp_path / "b.jsonl", 2, first=3)
    (tmp_path / "more").mkdir()
    numbered(tmp_path / "more" / "a.jsonl", 2, first=5)
    assert read(first, second) == [f"q{i}" for i in range(5)]
    everything = opened(settings_for(tmp_path / "**" / "*.jsonl", held_out_fraction=0.5), 0, Split.TRAIN)
    others = opened(settings_for(tmp_path / "**" / "*.jsonl", held_out_fraction=0.5), 0, Split.HELD_OUT)
    assert texts(everything) | texts(others) == {f"q{i}" for i in range(7)}
    assert everything.name == tmp_path.name
    listed = TaskSettings(name="jsonl", file=(first, second), held_out_fraction=0.5)
    assert len(opened(listed, 0, Split.TRAIN)) + len(opened(listed, 0, Split.HELD_OUT)) == 5


def test_a_pattern_that_matches_nothing_and_a_bad_row_of_the_second_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no file matches .*none-\*\.jsonl"):
        opened(settings_for(tmp_path / "none-*.jsonl"), 0, Split.TRAIN)
    numbered(tmp_path / "a.jsonl", 3)
    write(tmp_path / "b.jsonl", GOOD + "{\n")
    with pytest.raises(TaskError, match=r"b\.jsonl, line 2: is not JSON .*column"):
        opened(settings_for(tmp_path / "?.jsonl"), 0, Split.TRAIN)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    assert len(opened(settings_for(numbered(tmp_path / "a[1].jsonl", 9)), 0, Split.TRAIN)) > 0


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.text(min_size=1, max_size=12).filter(str.strip), "answer": st.just("x"), "more": VALUES}
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=80, deadline=None)
@given(
    rows=ROWS,
    end=st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n \t\r\n"]),
    mark=st.booleans(),
    last=st.booleans(),
    plain=st.booleans(),
    chunk=st.integers(1, 64),
)
def test_any_row_is_read_back_whatever_the_line_ends_and_wherever_a_chunk_ends(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], end: str, mark: bool, last: bool, plain: bool, chunk: int
) -> None:
    text = end.join(json.dumps(row, ensure_ascii=plain) for row in rows) + (end if last else "")
    file = write(tmp_path_factory.mktemp("rows") / "r.jsonl", ("\ufeff" if mark else "") + text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "CHUNK", chunk)
        found = JsonRows([file])
        assert [found[number] for number in range(len(found))] == rows


@settings(max_examples=80, deadline=None)
@given(rows=ROWS, indent=st.sampled_from([None, 0, 2]), mark=st.booleans(), plain=st.booleans())
def test_an_array_of_rows_is_read_element_by_element(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, mark: bool, plain: bool
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=plain)
    file = write(tmp_path_factory.mktemp("rows") / "r.json", ("\ufeff" if mark else "") + text + "\n")
    found = JsonRows([file])
    assert [found[number] for number in range(len(found))] == rows


def test_a_bad_element_of_an_array_is_named_by_its_line(tmp_path: Path) -> None:
    file = write(tmp_path / "r.json", '[\n{"prompt": "a", "answer": "b"},\n\n  {"prompt": "a"}\n]\n')
    with pytest.raises(TaskError, match=r"r\.json, line 4: answer: the key is missing; there is prompt"):
        prompts(file)


@pytest.mark.parametrize("data", ["{}", "[1", "[{}]]", "[{}] x", "1", '{"a": [1]}', "[}", "", "[]", " \n"])
def test_a_json_file_that_is_no_array_of_rows_is_refused(tmp_path: Path, data: str) -> None:
    with pytest.raises(TaskError, match=r"r\.json"):
        prompts(write(tmp_path / "r.json", data))


@pytest.mark.parametrize("data", ["[1]", "[{},]", "[,{}]", '["a"]'])
def test_an_element_that_is_no_object_is_refused_with_its_line(tmp_path: Path, data: str) -> None:
    with pytest.raises(TaskError, match=r"r\.json, line 1: (expected|is not JSON|prompt)"):
        prompts(write(tmp_path / "r.json", data))


def packed(path: Path, data: bytes) -> Path:
    if path.suffix == ".gz":
        return write(path, gzip.compress(data))
    pa = pytest.importorskip("pyarrow", reason="needs the extra data")
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(data)
    return path


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_compressed_files_have_the_rows_ids_and_labels_of_plain_ones(tmp_path: Path, ending: str) -> None:
    plain = numbered(tmp_path / "train.jsonl", 9)
    compressed = packed(tmp_path / f"train.jsonl.{ending}", plain.read_bytes())
    array = packed(tmp_path / f"more.json.{ending}", b'[{"prompt": "x", "answer": 1},\n{"prompt": "y", "answer": 2}]')
    assert prompts(compressed) == prompts(plain)
    assert [prompt.prompt_id for prompt in prompts(compressed, array)][-3:] == ["train-9", "more-1", "more-2"]
    assert settings_for(compressed).effective_label == settings_for(plain).effective_label == "train"
    assert JsonRows([compressed]).place(3) == f"{compressed}, line 4"


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-9], lambda _: GOOD.encode()], ids=["cut short", "not compressed"]
)
def test_a_file_that_cannot_be_unpacked_is_refused_by_name(
    tmp_path: Path, ending: str, spoil: Callable[[bytes], bytes]
) -> None:
    file = packed(tmp_path / f"train.jsonl.{ending}", GOOD.encode() * 500)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(TaskError, match=f"cannot read task file .*train.jsonl.{ending}: "):
        read(file)


def test_what_was_unpacked_is_gone_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    rows = JsonRows([packed(tmp_path / "train.jsonl.gz", GOOD.encode())])
    assert len(rows) == 1
    assert list(scratch.iterdir()) == []


def test_a_row_that_changes_after_the_start_ends_with_its_place(tmp_path: Path) -> None:
    file = numbered(tmp_path / "t.jsonl", 20)
    task = opened(settings_for(file), 0, Split.TRAIN)
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(TaskError, match=r"t\.jsonl, line \d+: is not JSON .*changed since the start"):
        task.prompt(0)


def test_memory_grows_with_the_number_of_rows_and_not_with_their_size(tmp_path: Path) -> None:
    rows, long = 5000, "very " * 400
    file = write_rows(tmp_path / "t.jsonl", [{"prompt": f"{long}{i}", "answer": i} for i in range(rows)])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        task = opened(settings_for(file), 0, Split.TRAIN)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert task.prompt(0).text.startswith(long)
    assert file.stat().st_size > 10_000_000
    assert taken < file.stat().st_size / 5


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 60), seed=st.integers(0, 2**32 - 1), started=st.lists(st.integers(0, 500), max_size=5))
def test_the_order_is_the_same_after_any_kill_and_resume(
    tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int, started: list[int]
) -> None:
    settings = settings_for(numbered(tmp_path_factory.mktemp("rows") / "t.jsonl", rows))
    through = opened(settings, seed, Split.TRAIN)
    expected = [through.prompt(ordinal) for ordinal in range(0, 500, 7)]
    for ordinal in started:
        resumed = opened(settings, seed, Split.TRAIN)
        assert resumed.prompt(ordinal - ordinal % 7) == expected[ordinal // 7]
