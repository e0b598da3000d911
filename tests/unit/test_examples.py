"""Every example's settings are settings, and its task can be opened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.rewards.opening import open_verifier
from ais.collector.rewards.response import Response
from ais.collector.settings import TaskSettings
from ais.collector.settings.rewards import MathVerify
from ais.collector.tasks.task import open_task
from ais.settings import load

ELSEWHERE = ("function", "service")
"""Verifiers of other processes."""
ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "examples").glob("*/config.toml"))

PROMPT_TOKENS = 16
"""At least, of the examples with written-out work."""


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.parent.name)
def test_an_examples_task_rewards_its_own_answers(config: Path) -> None:
    settings = load(config)
    task = settings.collector.task
    if task.name == "reasoning_gym":
        pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")
    if any(isinstance(one, MathVerify) for source in task.each_source for one in source.effective_reward):
        pytest.importorskip("math_verify", reason="needs the extra rewards")
    if any(one.verifier in ELSEWHERE for source in task.each_source for one in source.effective_reward):
        pytest.skip("judged elsewhere: has a test of its own")
    if any(one.effective_environment is not None for one in task.each_source):
        pytest.skip("an environment gives the reward: has a test of its own")
    for split in (Split.TRAIN, Split.HELD_OUT):
        source = open_task(task, settings.run.seed, split)
        for ordinal in range(20):
            prompt = source.prompt(ordinal)
            (asked,) = [one for one in task.each_source if one.effective_label == prompt.source]
            tagged = asked.effective_verifier == "reasoning_gym" and not asked.pattern
            boxed = any(isinstance(one, MathVerify) for one in asked.effective_reward)
            answer = rf"\boxed{{{prompt.answer}}}" if boxed else prompt.answer
            answer = f"<answer>{answer}</answer>" if tagged else answer
            assert reward(task, prompt, answer) == 1.0
            assert reward(task, prompt, "") == 0.0


def reward(task: TaskSettings, prompt: Prompt, text: str) -> float:
    """The weighted sum of a response's scores."""
    (source,) = [one for one in task.each_source if one.effective_label == prompt.source]
    scores = [(one.weight, open_verifier(one, source.datasets)) for one in source.effective_reward]
    return sum(weight * float(str(verify(Response(text, most_tokens=99), prompt))) for weight, verify in scores)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.parent.name)
def test_an_examples_responses_fit_its_replicas(config: Path) -> None:
    settings = load(config)
    assert settings.collector.sampling.max_new_tokens < settings.rollout.max_model_len
    assert settings.run.samples_per_group <= settings.rollout.slots
    assert settings.collector.task.work_tokens <= settings.rollout.max_model_len
    assert settings.collector.task.work_tokens <= settings.collector.sampling.max_new_tokens + PROMPT_TOKENS


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.parent.name)
def test_an_example_has_a_readme_whose_commands_name_its_own_settings(config: Path) -> None:
    text = (config.parent / "README.md").read_text(encoding="utf-8")
    named = {Path(name) for name in re.findall(r"(?<=-c )examples/\S+\.toml", text)}
    assert config.relative_to(ROOT) in named
    assert all((ROOT / name).is_file() for name in named)
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert all((config.parent / link).is_file() for link in links)


def test_there_are_examples() -> None:
    assert {config.parent.name for config in CONFIGS} >= {
        "sort16",
        "sort_swaps",
        "smollm2",
        "qwen3-0.6b",
        "qwen3-8b",
        "own_data",
        "reference-kl",
        "smollm2-lora",
        "mixture",
        "flaky_verifier",
        "reward_service",
        "dynamic_sampling",
    }
