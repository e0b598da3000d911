"""A version that is loaded into a serving vLLM model is there as a whole, for every family."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.models.families import FAMILIES

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What is told of each family."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    program = str(Path(__file__).with_name("reloads_alone.py"))
    done = subprocess.run(
        [sys.executable, program, str(tmp_path_factory.mktemp("families"))], stdout=subprocess.PIPE, check=True
    )
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith('{"family"')]
    return {line["family"]: line for line in map(json.loads, lines)}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tensor_of_the_version_before_serves_on(family: str, found: dict[str, dict[str, Any]]) -> None:
    """GPT-OSS' experts and sinks did, without a word. Tables of sines and what pads experts never change."""
    assert found[family]["stale"] == []
    assert found[family]["moved"] > 0.1
