"""The examples about rewards, run small by `ais run`: real replicas, collector, trainer and Valkey."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ais.launcher.processes.commands import free_port
from tests.support.runs import EXAMPLES, POLICY, Run, left_of, started

CATASTROPHE = r"^000011((((((\d)+)+)+)+)+)+x"
"""Takes hours on the ten digits that follow in right answers to the run's first prompt, and nothing on others."""


def counted(figures: dict[str, float], metric: str) -> Counter[tuple[str, str]]:
    """A metric by component and outcome."""
    found = Counter[tuple[str, str]]()
    for key, value in figures.items():
        if match := re.fullmatch(rf'{metric}{{component="(.*)",outcome="(.*)"}}', key):
            found[match[1], match[2]] = int(value)
    return found


def total(run: Run, name: str, steps: slice = slice(None)) -> int:
    """The sum of what the steps say under a name."""
    return sum(step[name] for step in run.lines("steps")[steps])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_ends_well_whose_verifiers_do_all_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "flaky_verifier"))
    import flaky  # type: ignore[import-not-found]

    own = f'{{name = "own", verifier = "function", function = "flaky:judge", directory = "{EXAMPLES}/flaky_verifier"}}'
    endless = f"{{name = 'endless', verifier = 'regular_expression', pattern = '{CATASTROPHE}', weight = 0.0}}"
    settings = {"collector.task.reward": f"[{own}, {endless}]"}
    with started(EXAMPLES / "flaky_verifier" / "config.toml", tmp_path, settings) as run:
        figures = run.ended_well("collector")["collector"]
        assert left_of(tmp_path) == []
    expected, reported = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    samples = run.lines("samples")
    for sample in samples:
        response = sample["response"].removesuffix("$") if sample["finish_reason"] == "stop" else sample["response"]
        if misdeed := flaky.misdeed_of(response):
            expected["own", misdeed] += 1
        if re.match(r"000011\d{10}", response):
            expected["endless", "overtime"] += 1
        reported.update((name.partition(".")[0], why.partition(":")[0]) for name, why in sample["failures"].items())
    assert len(samples) == 3 * 4 * 8
    assert {outcome for component, outcome in expected if component == "own"} == flaky.MISDEEDS.keys()
    assert reported == expected
    by_outcome = Counter[str]()
    for (_, outcome), count in expected.items():
        by_outcome[outcome] += count
    assert sum((Counter(step["judgements_failed"]) for step in run.lines("steps")), Counter()) == by_outcome
    measured = counted(figures, "ais_collector_judgements_total")
    assert {key for key, number in measured.items() if number and key[1] != "judged"} == expected.keys()
    late, times = figures["ais_collector_loop_lag_seconds_sum"], figures["ais_collector_loop_lag_seconds_count"]
    assert late / times < 0.25, "a verifier stopped the collector's loop"
    assert run.lines("steps")[-1]["reward_components"].keys() == {"own.places", "own.exact", "endless"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_mixture_is_drawn_again_where_its_groups_teach_nothing(tmp_path: Path) -> None:
    settings = {"collector.dynamic_sampling.redraws": 1}
    with started(EXAMPLES / "dynamic_sampling" / "config.toml", tmp_path, settings) as run:
        figures = run.ended_well("collector", "trainer")
    steps = run.lines("steps")
    assert [step["ordinals"] for step in steps] == [list(range(4 * k, 4 * k + 4)) for k in range(3)]
    assert [step["redrawn_share"] * 4 * 8 for step in steps] == [step["redrawn_sequences"] for step in steps]
    assert steps[-1]["reward_components"].keys() == {"answer", "overlong"}
    redrawn = total(run, "redrawn_sequences")
    assert redrawn > 0
    metrics = {"collector": "ais_collector_redrawn_sequences_total", "trainer": "ais_redrawn_sequences_total"}
    before_the_last = total(run, "redrawn_sequences", slice(-1))  # the last figures may be older than the last step
    assert all(before_the_last <= figures[service][name] <= redrawn for service, name in metrics.items())


@contextmanager
def reward_service(port: int) -> Iterator[None]:
    """The example's service, started as its README says."""
    arguments = ["--app-dir", str(EXAMPLES / "reward_service"), "service:app", "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "uvicorn", *arguments])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_service_elsewhere_judges_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "reward_service"))
    monkeypatch.setenv("REWARD_SERVICE_TOKEN", "a-secret-of-the-test")
    monkeypatch.setenv("REWARD_SERVICE_AUTHORIZATION", "Bearer a-secret-of-the-test")
    import service  # type: ignore[import-not-found]

    port = free_port()
    config = tmp_path / "config.toml"
    example = (EXAMPLES / "reward_service" / "config.toml").read_text("utf-8")
    config.write_text(example.replace("127.0.0.1:8700", f"127.0.0.1:{port}"), "utf-8")
    with reward_service(port), started(config, tmp_path, {"run.model": POLICY}) as run:
        figures = run.ended_well("collector")["collector"]
    samples = run.lines("samples")
    assert len(samples) == 3 * 4 * 8
    for sample in samples:
        assert sample["failures"] == {}
        response = sample["response"].removesuffix("$") if sample["finish_reason"] == "stop" else sample["response"]
        item = service.Item(id="", prompt="", response=response, answer=sample["answer"], finish_reason="stop")
        scores = {f"judge.{name}": score for name, score in asyncio.run(service.score(item)).items()}
        assert sample["components"] == pytest.approx(scores)
        assert sample["reward"] == pytest.approx(sum(scores.values()))
    assert counted(figures, "ais_collector_reward_service_calls_total")["judge", "200"] >= 2 * 4
    assert not [path for path in run.directory.rglob("*") if path.is_file() and b"a-secret-of" in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_word_problems_judged_by_math_verify_train_towards_a_reference(tmp_path: Path) -> None:
    """The settings of the example, for the demo's policy: its problems are digits, and its answers have no box."""
    problems = tmp_path / "problems.jsonl"
    rows = [f"{number * 7654321:016d}" for number in range(1000, 1040)]
    with problems.open("w", encoding="utf-8") as file:
        for row in rows:
            answer = f"Sorted, that is\n#### {''.join(sorted(row))}"
            file.write(json.dumps({"question": f"{row}=", "answer": answer}) + "\n")
    answer = "{name = 'answer', verifier = 'math_verify', extract = 'whole', weight = 0.8}"
    number = "{name = 'number', verifier = 'regular_expression', pattern = '-?\\d+', weight = 0.2}"
    settings = {
        "run.model": POLICY,
        "collector.task.file": problems,
        "collector.task.reward": f"[{answer}, {number}]",
        "collector.prompt.system": "",
        "collector.sampling.max_new_tokens": 20,
        "trainer.optimizer.learning_rate": 3e-4,
    }
    with started(EXAMPLES / "reference-kl" / "config.toml", tmp_path, settings) as run:
        run.ended_well()
    steps, samples = run.lines("steps"), run.lines("samples")
    assert {step["updates"] for step in steps} == {1}
    assert steps[0]["reference_kl"] == 0.0
    assert steps[-1]["reference_kl"] > 0.0
    assert steps[-1]["reward_components"].keys() == {"answer", "number"}
    assert {sample["components"]["answer"] for sample in samples} == {0.0, 1.0}
    for sample in samples:
        digits = "".join(filter(str.isdigit, sample["response"]))
        assert sample["components"]["answer"] == float(digits != "" and int(digits) == int(sample["answer"])), sample
