"""`ais plan` against the records of benchmarks/results, and docs/scale.md against `ais plan`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from typer.testing import CliRunner

from ais.cli import app
from ais.planning import measured
from ais.planning.measured import Measured
from ais.planning.rates import MEASURED_GPU, fitted_decoding
from ais.planning.shapes import MODELS, Shape

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks/results"
PAGE = (ROOT / "docs/scale.md").read_text()
RECORDS = [one for one in vars(measured).values() if isinstance(one, Measured)]


def recorded(file: str, name: str, value: str) -> float:
    content = json.loads((RESULTS / file).read_text())
    if "figures" in content:
        return float(content["figures"][name][value])
    return float(next(one for one in content["points"] if one["name"] == name)["values"][value])


@pytest.mark.parametrize("record", RECORDS, ids=lambda one: "/".join(one.where))
def test_what_the_plan_rests_on_is_what_was_recorded(record: Measured) -> None:
    assert record.value == recorded(record.file, *record.where)


def errors() -> dict[str, float]:
    """Prediction by record, less one."""
    small = MODELS["0.6b"]
    decode = fitted_decoding().seconds(small, MEASURED_GPU, 128, measured.DECODE_CONTEXT)
    weights = {
        f"weights of {name} in {precision}": MODELS[name].served_bytes(precision == "e4m3")
        / (recorded("gpu/fused.json", f"{name}, batch {batch}, {precision}", "weights_gigabytes") * 1e9)
        for name, batch in (("0.6b", 128), ("4b", 128), ("8b", 256))
        for precision in ("bf16", "e4m3")
    }
    return {
        "decode step of 0.6b, 128 sequences": decode * 1e3 / measured.DECODE_06B.value - 1,
        "trainer at rest, 0.6b": 12 * small.parameters / (measured.RESTING.value * 1e9) - 1,
        "a run of 300,000 parameters on two cores": _small_run() - 1,
        "weights, worst of six": max((one - 1 for one in weights.values()), key=abs),
    }


def _small_run() -> float:
    """The passes of sort_swaps, whose trainer shared two cores with replicas and collector, by the rate of another
    model's on two quiet cores."""
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (RESULTS / "sort_swaps/steps.jsonl").read_text().splitlines()
    ]
    larger = Shape(192, 576, 4, 6, 2, 32, 2048, tied=True)  # benchmarks/train.py
    rate = recorded("train.json", "larger_tokens_per_second", "value") / 96 * (32 + 96)  # prompts are read too
    flops = rate * larger.training_flops(128)
    run = Shape(128, 256, 2, 4, 2, 32, 22, tied=False)  # `ais warmstart` with size = "small"
    tokens = float(median(row["tokens"] for row in rows))
    return (
        tokens
        * run.training_flops(225)
        / flops
        / float(median(row["phase_seconds"]["forward_backward"] for row in rows))
    )


def test_the_page_says_how_far_off_the_plan_was() -> None:
    told = dict(re.findall(r"^\| (.+?) \| ([+-][\d.]+)% \|$", PAGE, re.MULTILINE))
    assert told == {name: f"{error * 100:+.1f}" for name, error in errors().items()}


@pytest.mark.parametrize("command", re.findall(r"^    (ais plan .*--table.*)$", PAGE, re.MULTILINE))
def test_the_tables_of_the_page_are_what_the_command_prints(command: str) -> None:
    done = CliRunner().invoke(app, command.split()[1:])
    assert done.exit_code == 0
    assert done.stdout in PAGE


def test_the_command_names_the_source_of_every_assumption_and_refuses_what_it_does_not_know() -> None:
    done = CliRunner().invoke(app, ["plan"])
    assert done.exit_code == 0
    assumed = done.stdout.partition("assumed\n")[2].splitlines()
    assert len(assumed) > 8
    for line in assumed:
        assert re.search(r"benchmarks/results|docs/|\((given|assumed|arithmetic)\)|18 bytes a parameter", line), line
    assert CliRunner().invoke(app, ["plan", "--model", "9b"]).exit_code == 2
    assert CliRunner().invoke(app, ["plan", "--response", "9000"]).exit_code == 2
    refused = CliRunner().invoke(app, ["plan", "--model", "70b"])
    assert refused.exit_code == 2
    assert "--replica-gpus" in refused.output
