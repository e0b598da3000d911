"""Prompts are seeded and resumable; verifiers judge what they say they judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from ais.collector.prompts.prompts import Prompt, Split, TaskError
from ais.collector.settings import CollectorSettings, TaskSettings
from ais.collector.tasks.task import open_task
from ais.collector.tasks.verifiers import open_verifier
from ais.contracts.sampling import FinishReason


def answered_by(answer: str) -> Prompt:
    return Prompt(prompt_id="p", text="q", answer=answer)


def write_jsonl(path: Path, rows: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": i}) + "\n" for i in range(rows)))
    return path


def test_a_sort_prompt_is_answered_by_its_sorted_digits() -> None:
    prompt = open_task(TaskSettings(digits=16), 0, Split.TRAIN).prompt(3)
    digits, end = prompt.text[:-1], prompt.text[-1]
    assert end == "="
    assert len(digits) == 16
    assert prompt.answer == "".join(sorted(digits))


def test_the_order_of_prompts_depends_on_seed_split_and_ordinal_alone() -> None:
    def texts(seed: int, split: Split) -> list[str]:
        task = open_task(TaskSettings(), seed, split)
        return [task.prompt(ordinal).text for ordinal in (5, 0, 5)]

    first = texts(0, Split.TRAIN)
    assert first == texts(0, Split.TRAIN)
    assert first[0] == first[2] != first[1]
    assert len({first[0], texts(1, Split.TRAIN)[0], texts(0, Split.HELD_OUT)[0], texts(0, Split.DEMONSTRATION)[0]}) == 4


def test_an_epoch_of_a_file_has_every_prompt_once_and_the_next_has_another_order(tmp_path: Path) -> None:
    settings = TaskSettings(name="jsonl", file=write_jsonl(tmp_path / "t.jsonl", 20))
    task = open_task(settings, 0, Split.TRAIN)
    epochs = [[task.prompt(epoch * 20 + i).text for i in range(20)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(f"q{i}" for i in range(20))
    assert epochs[0] != epochs[1]


def test_evaluation_reads_the_held_out_file(tmp_path: Path) -> None:
    settings = TaskSettings(
        name="jsonl", file=write_jsonl(tmp_path / "a.jsonl", 3), held_out_file=write_jsonl(tmp_path / "b.jsonl", 3)
    )
    assert open_task(settings, 0, Split.HELD_OUT).name == "b"
    assert open_task(settings, 0, Split.TRAIN).name == "a"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no prompts"),
        ("not json\n", "line 1"),
        ('{"prompt": "a"}\n', "'answer' is missing"),
        ("[1]\n", "line 1"),
        ('{"prompt": "a", "answer": "b", "metadata": 1}\n', "metadata must be an object"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    with pytest.raises(TaskError, match=complaint):
        open_task(TaskSettings(name="jsonl", file=file), 0, Split.TRAIN)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="absent.jsonl"):
        open_task(TaskSettings(name="jsonl", file=tmp_path / "absent.jsonl"), 0, Split.TRAIN)


def test_exact_match_wants_the_answer_and_an_end() -> None:
    verify = open_verifier(TaskSettings())
    assert verify("123", answered_by("123"), FinishReason.STOP) == 1.0
    assert verify("123", answered_by("123"), FinishReason.LENGTH) == 0.0
    assert verify("1234", answered_by("123"), FinishReason.STOP) == 0.0


def test_a_regular_expression_compares_its_last_capture() -> None:
    verify = open_verifier(TaskSettings(verifier="regular_expression", pattern=r"#### (\d+)"))
    assert verify("#### 1 no, #### 42", answered_by("42"), FinishReason.LENGTH) == 1.0
    assert verify("#### 42 no, #### 1", answered_by("42"), FinishReason.LENGTH) == 0.0
    assert verify("42", answered_by("42"), FinishReason.STOP) == 0.0


def test_a_pattern_that_does_not_compile_is_refused() -> None:
    with pytest.raises(TaskError, match="not a regular expression"):
        open_verifier(TaskSettings(verifier="regular_expression", pattern="("))


@pytest.mark.parametrize("sampling", [{"top_p": 0.9}, {"top_k": 5}, {"temperature": 0.0}, {"seed": 1}])
def test_sampling_that_cannot_be_trained_on_is_refused_with_the_reason(sampling: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="biased|no log-probs|run.seed"):
        CollectorSettings.model_validate({"sampling": sampling})


def test_line_separators_inside_a_prompt_do_not_end_its_line(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    row = {"prompt": "a\u2028b\u0085c", "answer": "d"}
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert open_task(TaskSettings(name="jsonl", file=file), 0, Split.TRAIN).prompt(0).text == row["prompt"]


@pytest.mark.parametrize(
    ("data", "complaint"), [(b"\xff\xfe", "not UTF-8"), (b'{"prompt": 1, "answer": 1}', "must be text")]
)
def test_a_file_with_the_wrong_kind_of_text_is_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(data)
    with pytest.raises(TaskError, match=complaint):
        open_task(TaskSettings(name="jsonl", file=file), 0, Split.TRAIN)


def test_setting_the_temperature_leaves_the_other_defaults_alone() -> None:
    changed = CollectorSettings.model_validate({"sampling": {"temperature": 0.9}}).sampling
    assert changed.max_new_tokens == CollectorSettings().sampling.max_new_tokens
