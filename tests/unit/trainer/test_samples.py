"""What is kept of each step as text: whole lines, a few a step, in a file that cannot grow without bound."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ais.contracts.reward_components import JudgementFailure, RewardComponent
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import PolicySpan
from ais.contracts.turns import Turn
from ais.trainer import samples
from ais.trainer.samples import SAMPLES_FILE, SampleLog, decoder, drawn, rewind, token_lengths, watched_tokens
from tests.support.records import trajectory_of
from tests.support.tokenizer_families import CORPUS, byte_level
from tests.support.trainer_groups import make_group

MODEL = Path(__file__).parents[3] / "examples" / "sort16" / "model"


def spell(token_ids: np.ndarray) -> str:
    return " ".join(str(token) for token in token_ids)


def read(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / SAMPLES_FILE).read_text(encoding="utf-8").split("\n")[:-1]]


def test_a_line_says_what_was_asked_answered_and_rewarded(tmp_path: Path) -> None:
    parts = (
        RewardComponent("answer", 1.0, (0.5,)),
        RewardComponent("own", 1.0, (0.0,), (JudgementFailure(0, "overtime", "judging took longer than 1 s"),)),
    )
    group = replace(make_group(7, samples=1, version=2), answer="42\u2028\x1b[31m", rewards=(0.5,), components=parts)
    SampleLog(tmp_path, spell, per_step=4).append(3, [group])
    (line,) = read(tmp_path)
    assert line == {
        "step": 3,
        "version": 2,
        "ordinal": 7,
        "prompt": spell(group.prompt_token_ids),
        "response": spell(group.trajectories[0].token_ids),
        "reward": 0.5,
        "components": {"answer": 0.5, "own": 0.0},
        "failures": {"own": "overtime: judging took longer than 1 s"},
        "finish_reason": "stop",
        "answer": "42\u2028\x1b[31m",
    }


def test_each_step_keeps_as_many_as_asked_and_different_ones_from_step_to_step(tmp_path: Path) -> None:
    log = SampleLog(tmp_path, spell, per_step=3)
    groups = [make_group(ordinal) for ordinal in range(16)]
    for step in range(1, 6):
        log.append(step, groups)
    lines = read(tmp_path)
    assert [line["step"] for line in lines] == [step for step in range(1, 6) for _ in range(3)]
    assert len({line["ordinal"] for line in lines}) > 5


def test_the_file_stays_below_its_bound_and_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "LARGEST_FILE", 20_000)
    log = SampleLog(tmp_path, spell, per_step=4)
    for step in range(1, 301):
        log.append(step, [make_group(step)])
        assert (tmp_path / SAMPLES_FILE).stat().st_size <= 20_000
    steps = [line["step"] for line in read(tmp_path)]
    assert steps == sorted(steps)
    assert steps[-1] == 300
    assert len(set(steps)) > 10


@pytest.mark.parametrize("characters", [10, 4000, 4001, 1_000_000])
def test_a_long_text_keeps_its_beginning_and_its_end(characters: int) -> None:
    text = "<" + "x" * (characters - 2) + ">"
    short = samples.shortened(text)
    assert short.startswith("<x")
    assert short.endswith("x>")
    assert len(short) <= samples.LONGEST_TEXT + 50
    assert ("characters ..." in short) == (characters > samples.LONGEST_TEXT)


def test_a_trainer_that_resumes_forgets_later_steps_and_what_a_crash_cut_short(tmp_path: Path) -> None:
    log = SampleLog(tmp_path, spell, per_step=1)
    for step in range(1, 6):
        log.append(step, [make_group(step)])
    with (tmp_path / SAMPLES_FILE).open("a") as file:
        file.write('not json\n{"step": "x"}\n[]\n{"step": 2, "pro')
    rewind(tmp_path, 3)
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 3]
    log.append(4, [make_group(4)])
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 3, 4]


def test_a_run_without_samples_yet_has_nothing_to_forget(tmp_path: Path) -> None:
    rewind(tmp_path, 3)
    assert not (tmp_path / SAMPLES_FILE).exists()


def test_texts_keep_the_special_tokens_that_the_policy_read_and_wrote() -> None:
    decode = decoder(MODEL)
    assert decode is not None
    assert decode(np.array([1, 6, 4, 15, 2], dtype=np.int32)) == "^31=$"


def test_a_model_without_a_tokenizer_trains_without_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SampleLog(tmp_path, decoder(tmp_path / "absent"), per_step=4).append(1, [make_group(0)])
    assert not (tmp_path / SAMPLES_FILE).exists()
    assert "samples.jsonl stays empty" in caplog.text


def test_a_line_has_the_log_ratio_of_each_sampled_token_and_who_sampled_it(tmp_path: Path) -> None:
    turns = (
        Turn(np.empty(0, np.int32), 2, FinishReason.STOP, 8),
        Turn(np.array([7, 8], np.int32), 1, FinishReason.STOP, 8),
    )
    spans = (PolicySpan(3, 0, 2), PolicySpan(4, 2, 3))
    member = trajectory_of([5, 60, 5], turns=turns, spans=spans)
    group = replace(make_group(0, samples=1), trajectories=(member,), rewards=(1.0,))
    assert watched_tokens(1, [group], 4) == {0: 3}
    SampleLog(tmp_path, spell, per_step=4).append(1, [group], {0: (0.25, -0.123456, 2.0)})
    (line,) = read(tmp_path)
    assert line["response"] == "5 60 7 8 5"
    assert line["token_lengths"] == [1, 3, 2, 2, 2]
    assert line["log_ratios"] == [0.25, -0.1235, None, None, 2.0]
    assert line["spans"] == [[3, 2], [4, 1]]


def test_of_a_long_response_the_first_tokens_are_told(tmp_path: Path) -> None:
    group = make_group(0, samples=1, lengths=(2000, 2000))
    assert watched_tokens(1, [group], 4) == {0: samples.MOST_TOKENS}
    SampleLog(tmp_path, spell, per_step=4).append(1, [group], {0: [0.0] * samples.MOST_TOKENS})
    (line,) = read(tmp_path)
    assert len(line["token_lengths"]) == len(line["log_ratios"]) == samples.MOST_TOKENS
    assert len(json.dumps(line)) < 10_000


def test_the_responses_that_are_measured_are_those_that_are_kept(tmp_path: Path) -> None:
    groups = [make_group(ordinal) for ordinal in range(16)]
    for step in range(1, 20):
        watched = watched_tokens(step, groups, 3)
        assert sorted(watched) == sorted(drawn(step, 64, 3))
        SampleLog(tmp_path, spell, per_step=3).append(step, groups, {one: [0.0] * watched[one] for one in watched})
    assert all(len(line["log_ratios"]) == len(line["response"].split()) for line in read(tmp_path))


@pytest.mark.parametrize("text", [*CORPUS, "東京 🙂 é", " a  b\n\n"])
def test_the_characters_of_tokens_add_up_to_the_text(text: str) -> None:
    """Also where a character is made of several tokens."""
    tokenizer = byte_level([])
    token_ids = np.array(tokenizer.encode(text).ids, dtype=np.int32)

    def decode(ids: np.ndarray) -> str:
        return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    lengths = token_lengths(token_ids, decode)
    assert len(lengths) == len(token_ids)
    assert sum(lengths) == len(decode(token_ids))
    ends = np.cumsum(lengths)
    for end, length in zip(ends, range(1, len(token_ids) + 1), strict=True):
        assert decode(token_ids)[:end] == decode(token_ids[:length]).rstrip("\ufffd")
