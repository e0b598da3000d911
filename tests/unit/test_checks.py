"""What is refused before a run makes or starts anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ais.checks import check_agents, check_before_start, check_shared_directory
from ais.runtime.process import UnavailableError
from ais.runtime.settings import SettingsError
from ais.settings import Settings, load

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "sort16"


def settings(*overrides: str) -> Settings:
    return load(EXAMPLE / "config.toml", overrides)


def model_of(directory: Path, config: str) -> Path:
    (directory / "model").mkdir()
    (directory / "model" / "config.json").write_text(config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / "model" / name).write_bytes((EXAMPLE / "model" / name).read_bytes())
    return directory / "model"


def test_the_demo_may_start() -> None:
    check_before_start(settings())


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_an_id_of_a_hub_is_told_how_to_get_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError) as error:
        check_before_start(settings(f"run.model={name}"))
    assert f"run.model: {name} ({tmp_path / name}) is not a Hugging Face model directory" in str(error.value)
    assert f"hf download {name} --local-dir models/{name.partition('/')[2]}" in str(error.value)


def test_a_collector_of_traces_that_is_no_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_ENDPOINT: expected http://HOST:4318"):
        check_before_start(settings())


def test_a_directory_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"it has no config\.json"):
        check_before_start(settings(f"run.model={tmp_path}"))
    with pytest.raises(UnavailableError, match="there is no such directory"):
        check_before_start(settings(f"run.model={tmp_path / 'none'}"))


@pytest.mark.parametrize("config", ["", "[]", "{", "\x00", "[" * 9_999])
def test_a_models_config_that_is_none_is_told(tmp_path: Path, config: str) -> None:
    with pytest.raises(UnavailableError, match=r"config\.json cannot be read"):
        check_before_start(settings(f"run.model={model_of(tmp_path, config)}"))


@pytest.mark.parametrize("tokens", [512, 513, 2048])
def test_responses_that_leave_no_room_for_a_prompt_are_refused(tmp_path: Path, tokens: int) -> None:
    model = model_of(tmp_path, json.dumps({"max_position_embeddings": 512}))
    wanted = (f"run.model={model}", f"collector.sampling.max_new_tokens={tokens}", "rollout.max_model_len=4096")
    with pytest.raises(SettingsError, match=rf"max_new_tokens = {tokens} leaves no room .* takes 512 tokens"):
        check_before_start(settings(*wanted))
    with pytest.raises(SettingsError, match=rf"max_new_tokens = {tokens} leaves no room .*max_model_len = 256"):
        check_before_start(settings(*wanted, "rollout.max_model_len=256"))


@pytest.mark.parametrize("rows", [None, "", '{"prompt": "a"}', '{"prompt": 1, "answer": "b"}', "\ud800", "nonsense"])
def test_a_task_file_that_cannot_be_used_ends_ais_run_before_it_begins(tmp_path: Path, rows: str | None) -> None:
    file = tmp_path / "rows.jsonl"
    if rows is not None:
        file.write_bytes(rows.encode("utf-8", errors="surrogatepass"))
    overrides = (f"run.directory={tmp_path / 'runs'}", "collector.task.name=jsonl", f"collector.task.file={file}")
    arguments = [part for override in overrides for part in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-m", "ais.cli", "run", "-c", str(EXAMPLE / "config.toml"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | {"COLUMNS": "80"},
    )
    assert done.returncode == 3, done.stderr
    assert "rows.jsonl" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_replicas_of_the_run_must_look_where_the_trainer_writes(tmp_path: Path) -> None:
    shared = ("trainer.push.transfer=shared", f"run.directory={tmp_path}")
    with pytest.raises(SettingsError, match=f"expected rollout.shared_directory = {tmp_path / 'demo'}, .* got none"):
        check_shared_directory(settings(*shared))
    with pytest.raises(SettingsError, match=f"got {tmp_path}"):
        check_shared_directory(settings(*shared, f"rollout.shared_directory={tmp_path}"))
    check_shared_directory(settings(*shared, f"rollout.shared_directory={tmp_path / 'demo'}"))
    check_shared_directory(settings(f"rollout.shared_directory={tmp_path}"))


def test_adapters_cannot_be_sent_where_none_are_trained() -> None:
    with pytest.raises(SettingsError, match=r"set trainer\.lora\.rank"):
        settings("trainer.push.lora=adapter")


def test_adapters_without_their_library_are_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UnavailableError, match=r"pip install 'ais-rl\[lora\]'"):
        check_before_start(settings("trainer.lora.rank=8"))


AGENTS = (
    "launcher.agents=1",
    "collector.task.name=guess_number",
    'collector.task.environment={name="outside"}',
    'agent.command=["python", "agent.py"]',
    "collector.agents_port=8100",
)


@pytest.mark.parametrize(
    ("without", "instead", "said"),
    [
        (2, 'collector.task.environment={name="guess_number"}', "no environment.name of the task is outside"),
        (3, "agent.programs=2", r"agent\.command is needed"),
        (4, "collector.agents_port=0", r"collector\.agents_port is needed"),
    ],
)
def test_agents_of_the_runs_own_need_something_to_play_a_program_and_a_port(
    without: int, instead: str, said: str
) -> None:
    check_agents(settings(*AGENTS))
    with pytest.raises(SettingsError, match=f"launcher.agents: .*{said}"):
        check_agents(settings(*AGENTS[:without], instead, *AGENTS[without + 1 :]))


def test_agents_that_need_a_certificate_are_not_started_by_the_run() -> None:
    with pytest.raises(SettingsError, match=r"agent\.url, by https"):
        check_agents(settings(*AGENTS, "security.certificates=/secrets"))
    check_agents(settings(*AGENTS, "security.certificates=/secrets", "agent.url=https://collector:8100"))
