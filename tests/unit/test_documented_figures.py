"""Tables in the documents are those of the recorded results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare.tables import BLOCK, DOCUMENT, RESULTS, filled, recorded
from benchmarks.diffusion import records as diffusion
from benchmarks.floods import report as floods
from benchmarks.floods.flooder import FLOODS
from benchmarks.gpu import tables as gpu
from benchmarks.long_answers import report as lengths
from benchmarks.models import report as models
from benchmarks.models import routing
from benchmarks.tiny_grpo import frozen_table
from benchmarks.tiny_grpo.report import read
from benchmarks.truncation import report as truncation

ROOT = Path(__file__).parents[2]


def test_the_tables_of_the_algorithm_are_made_from_the_recorded_cells() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert BLOCK.search(text)
    assert filled(text) == text


def test_a_figure_that_is_changed_by_hand_is_noticed() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    (block, *_rest) = BLOCK.finditer(text)
    changed = text[: block.start()] + block[0].replace(".8", ".9") + text[block.end() :]
    assert changed != text
    assert filled(changed) == text


def test_every_recorded_file_has_its_study_or_is_an_older_one() -> None:
    studies = {file.stem for file in (ROOT / "benchmarks" / "compare").glob("*.toml")}
    found = {file.stem for file in RESULTS.glob("*.jsonl")}
    assert found - studies <= {"frontier"}
    assert all(recorded(name) for name in found)


def test_the_table_of_the_chain_is_made_from_its_recorded_figures() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert lengths.BLOCK.search(text)
    figures = json.loads((ROOT / "benchmarks" / "results" / "lengths.json").read_text())["figures"]
    assert lengths.filled(text, figures) == text


def test_the_table_of_frozen_policies_is_made_from_its_records() -> None:
    text = (ROOT / "docs" / "collapse.md").read_text()
    assert frozen_table.BLOCK.search(text)
    records = read(ROOT / "benchmarks" / "results" / "collapse_frozen.jsonl")
    assert frozen_table.filled(text, records) == text


def test_the_tables_of_diffusion_policies_are_made_from_their_records() -> None:
    text = diffusion.DOCUMENT.read_text(encoding="utf-8")
    assert {block["name"] for block in diffusion.BLOCK.finditer(text)} == diffusion.TABLES.keys()
    assert diffusion.filled(text, diffusion.read()) == text


def test_the_matrix_of_models_is_made_from_its_records() -> None:
    text = models.DOCUMENT.read_text(encoding="utf-8")
    assert {block["engine"] for block in models.BLOCK.finditer(text)} == {"torch", "vllm"}
    assert models.filled(text, models.cells()) == text


def test_the_table_of_routing_replay_is_made_from_its_records() -> None:
    text = models.DOCUMENT.read_text(encoding="utf-8")
    assert models.ROUTING_BLOCK.search(text)
    assert models.routing_filled(text, routing.replays(models.ROUTING)) == text


def test_what_the_hybrid_learnt_is_told_as_recorded() -> None:
    records = read(ROOT / "benchmarks" / "results" / "qwen3_5" / "evaluations.jsonl")
    scores = {(one["step"], one["precision"]): f"{one['reward_mean']:.3f}".lstrip("0") for one in records}
    text = models.DOCUMENT.read_text(encoding="utf-8")
    for precision, said in (("bf16", "BF16"), ("e4m3/channel x e4m3", "FP8")):
        told = f"{said}\n**" if f"{said}\n**" in text else f"{said} **"
        assert f"{told}{scores[0, precision]} and {scores[60, precision]}**" in text


def test_the_tables_of_a_gpu_are_made_from_its_records() -> None:
    text = gpu.DOCUMENT.read_text(encoding="utf-8")
    assert {block["name"] for block in gpu.BLOCK.finditer(text)} == gpu.TABLES.keys()
    assert gpu.filled(text) == text


def test_the_run_by_lora_is_told_as_it_was_recorded() -> None:
    results, text = ROOT / "benchmarks" / "results", (ROOT / "docs" / "benchmarks.md").read_text()
    scores: dict[int, list[str]] = {}
    for record in read(results / "smollm2_lora" / "evaluations.jsonl"):
        score = f"{record['reward_mean']:.3f} ± {record['reward_standard_error']:.3f}"
        scores.setdefault(record["step"], []).append(score)
    assert len(scores) == 3
    for step, columns in scores.items():
        assert f"| {step} | {' | '.join(columns)} |" in text
    figures = json.loads((results / "lora_smollm2-135m-instruct.json").read_text())["figures"]
    for way in ("lora", "full", "lora_start", "full_start"):
        assert f"{figures[f'{way}_peak']['value'] / 1e6:,.0f} MB" in text
    rewards = [record["reward_mean"] for record in read(results / "smollm2_lora" / "steps.jsonl")]
    assert f".{1000 * sum(rewards[:5]) / 5:.0f} over the first five steps" in text
    assert f".{1000 * sum(rewards[-5:]) / 5:.0f} over the last five" in text


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (
            "security",
            lambda one: [f"**{one[f'{part}_overhead']['value']:.2f}**" for part in ("queue", "push", "rollouts")],
        ),
        (
            "peers",
            lambda one: [
                *(f"**{one[f'{way}_seconds_to_reward']['ratio']:.2f}**" for way in ("fp8", "bf16")),
                *(f"| {one[f'{who}_seconds_to_reward']['value']:.0f} |" for who in ("trl_float32", "fp8", "bf16")),
            ],
        ),
        (
            "prompts",
            lambda one: [
                f"| {one[f'{way}_shared']['value']:.2f} s | {one[f'{way}_shared']['ratio']:.2f} |"
                for way in ("16x64", "64x64", "256x32")
            ],
        ),
        (
            "peers_smollm2",
            lambda one: [f"**{one['bf16_step']['ratio']:.2f}** times", f"{one['bf16_step']['value']:.0f} s"],
        ),
        (
            "mismatch_budget",
            lambda one: [
                f"| {one[f'{part}_part']['value']:.0%} |" for part in ("weights", "activations", "kv_cache", "head")
            ],
        ),
        (
            "train_traces",
            lambda one: [
                f"**{one['traces_collector_on']['value']:.0f} us a group**",
                f"**{one['traces_replica_on']['value']:.0f} us a group**",
                f"**{one['traces_trainer_on']['value'] / 1000:.1f} ms a step**",
            ],
        ),
        (
            "agents_streamed",
            lambda one: [
                f"takes {one['processor_time_of_a_turn']['value']:.1f} ms where the bare handler",
                f"takes {one['processor_time_of_a_turn']['reference']:.1f}: twenty chunks",
                f"after {one['first_text_50']['value']:.0f} ms in the median",
            ],
        ),
        ("train_watching", lambda one: [f"**{one['demo_watching_cost']['value']:.1%} less throughput in the median"]),
    ],
)
def test_the_benchmarks_are_told_as_they_were_recorded(record: str, told: Callable[[Any], list[str]]) -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    figures = json.loads((ROOT / "benchmarks" / "results" / f"{record}.json").read_text())["figures"]
    assert [one for one in told(figures) if one not in text] == []


def test_the_floods_are_told_as_they_were_recorded() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "floods.json").read_text())["figures"]
    for document in ("benchmarks.md", "security.md"):
        text = (ROOT / "docs" / document).read_text()
        assert [line for line in floods.lines(FLOODS, figures) if line not in text] == [], document


def test_the_fuzzing_is_told_as_it_was_recorded() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text())["figures"]
    text = (ROOT / "docs" / "security.md").read_text()
    borders = sum(name.endswith("_inputs") for name in figures)
    assert f"{figures['inputs']['value']:,} inputs over {borders} borders" in text
    assert f"{figures['slowest']['value']:.1f} s" in text
    assert f"{figures['memory']['value']:.0f} MiB at most" in text
    assert figures["crashes"]["value"] == figures["overrides_inputs"]["crashes"] == 5


def test_the_fuzzing_of_the_endpoints_bodies_is_told_as_it_was_recorded() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "fuzz_endpoint.json").read_text())["figures"]
    text = (ROOT / "docs" / "security.md").read_text()
    assert {name for name in figures if name.endswith("_inputs")} == {
        *("chat_inputs", "completion_inputs", "end_inputs", "wanted_inputs")
    }
    assert f"{figures['inputs']['value']:,} inputs over the 4 borders" in text
    assert f"the slowest took {figures['slowest']['value']:.1f} s, {figures['memory']['value']:.0f} MiB at most" in text
    assert figures["crashes"]["value"] == 0


def test_the_ratios_of_truncated_sampling_are_told_as_they_were_recorded() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "truncation.json").read_text())["figures"]
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [line for line in truncation.lines(figures) if line not in text] == []


@pytest.mark.parametrize("example", ["guess_number", "calculator"])
def test_the_run_of_an_environment_is_told_as_it_was_recorded(example: str) -> None:
    results, text = ROOT / "benchmarks" / "results" / example, (ROOT / "docs" / "environments.md").read_text()
    scores: dict[int, dict[str, str]] = {}
    for record in read(results / "evaluations.jsonl"):
        score = f"{record['reward_mean']:.3f} ± {record['reward_standard_error']:.3f}"
        scores.setdefault(record["step"], {})[record["precision"]] = score
    for step, by_precision in scores.items():
        assert f"| {step} | {by_precision['bf16']} | {by_precision['e4m3/channel x e4m3']} |" in text
    rewards = [record["reward_mean"] for record in read(results / "steps.jsonl")]
    assert f"from {sum(rewards[:10]) / 10:.3f} over the first ten steps to {sum(rewards[-10:]) / 10:.3f}" in text


def test_the_programs_under_fire_are_told_as_they_were_recorded() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "chaos_programs.json").read_text())
    text = (ROOT / "docs" / "benchmarks.md").read_text().replace("\n", " ")
    calm, spread, fire = (record[f"reward_{one}"] for one in ("calm", "spread", "chaos"))
    assert f"is {fire:.3f}, in calm {calm:.3f} ± {spread:.3f}" in text
    assert f"training took {record['seconds_chaos']:.0f} s instead of {record['seconds_calm']:.0f} s" in text
    assert record["kills"] == {"collector": 2, "trainer": 1, "rollout-0": 1, "valkey": 1, "program": 1}
    assert record["problems"] == []


def test_agents_under_fire_are_told_as_they_were_recorded() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "chaos_agents.json").read_text())
    text = (ROOT / "docs" / "benchmarks.md").read_text().replace("\n", " ")
    calm, spread, fire = (record[f"reward_{one}"] for one in ("calm", "spread", "chaos"))
    assert f"is {fire:.3f} under fire and {calm:.3f} ± {spread:.3f} in calm" in text
    assert f"took {record['seconds_chaos']:.0f} s under fire and {record['seconds_calm']:.0f} s in calm" in text
    victims = ("trainer", "rollout-0", "collector", "valkey", "agent-0", "program")
    assert record["kills"] == dict.fromkeys(victims, 1)
    assert record["problems"] == []


def test_the_deployment_with_vllm_is_told_as_it_was_recorded() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "compose_vllm.json").read_text())
    rewards, text = record["rewards"], (ROOT / "deploy" / "README.md").read_text()
    first, last = (f".{10 * sum(part):.0f}" for part in (rewards[:10], rewards[-10:]))
    assert f"{len(rewards)} steps" in text
    assert f"reward {first} over the first ten steps and {last} over the last ten" in text
    minutes, seconds = divmod(round(record["seconds"]), 60)
    assert f"{minutes}:{seconds:02}" in text
