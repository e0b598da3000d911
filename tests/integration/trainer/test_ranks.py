"""Several ranks train as one does: same figures, same weights, over real process groups."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_checkpoint import go_on
from rank_curves import CASES, OBJECTIVES, POISONED_STEP, train
from safetensors.torch import load, load_file

from ais.trainer.ranks.ranks import Ranks
from tests.support.torchrun import torchrun

pytestmark = pytest.mark.slow

CURVES, CHECKPOINT = (str(Path(__file__).with_name(f"rank_{name}.py")) for name in ("curves", "checkpoint"))
ON_FOUR = ("current sums", "two updates", "fewer samples than ranks", "uneven", "bf16")
DEALT_OUT = "microbatches"
"""The one figure that is of a rank, not of the batch."""

Curve = tuple[list[dict[str, Any]], dict[str, torch.Tensor]]


@cache
def of_one_process(case: str) -> Curve:
    figures, payload = train(CASES[case], Ranks(torch.device("cpu")))
    return figures, load(payload)


def run_ranks(ranks: int, script: str, directory: Path, *arguments: str) -> Path:
    async def run() -> None:
        log = directory / f"log-{ranks}"
        async with asyncio.timeout(110), torchrun(ranks, script, str(directory), *arguments, log=log) as process:
            assert await process.wait() == 0, log.read_text()

    asyncio.run(run())
    return directory


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_ranks(2, CURVES, tmp_path_factory.mktemp("two"), *(case for case in CASES if case not in OBJECTIVES))


@pytest.fixture(scope="module")
def two_ranks_with_objectives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_ranks(2, CURVES, tmp_path_factory.mktemp("objectives"), *OBJECTIVES)


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_ranks(4, CURVES, tmp_path_factory.mktemp("four"), *ON_FOUR)


@pytest.fixture(scope="module")
def saved_by_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_ranks(2, CHECKPOINT, tmp_path_factory.mktemp("saved"), "save")


def assert_same_curve(case: str, directory: Path) -> None:
    expected, weights = of_one_process(case)
    figures = json.loads((directory / f"{case}.json").read_text())
    rounded = CASES[case].dtype == torch.bfloat16
    assert_same_figures(figures, expected, *((0.1, 2e-3) if rounded else (3e-4, 1e-6)))
    found_weights = load_file(directory / f"{case}.safetensors")
    assert found_weights.keys() == weights.keys()
    for name, weight in weights.items():
        difference = (found_weights[name].float() - weight.float()).norm() / weight.float().norm()
        assert difference < (1e-2 if rounded else 2e-4), name


def assert_same_figures(
    found: list[dict[str, Any]], wanted: list[dict[str, Any]], relative: float = 3e-4, absolute: float = 1e-6
) -> None:
    for step, (figures, expected) in enumerate(zip(found, wanted, strict=True)):
        assert figures.keys() == expected.keys()
        for name in expected.keys() - {DEALT_OUT}:
            value = expected[name]
            exact = value is None or isinstance(value, list)  # codes of concern
            close = value if exact else pytest.approx(value, rel=relative, abs=absolute, nan_ok=True)
            assert figures[name] == close, (step, name)


@pytest.mark.parametrize("case", [case for case in CASES if case not in OBJECTIVES])
def test_two_ranks_give_the_curve_of_one(case: str, two_ranks: Path) -> None:
    assert_same_curve(case, two_ranks)


@pytest.mark.parametrize("case", OBJECTIVES)
def test_two_ranks_give_the_curve_of_one_for_each_objective(case: str, two_ranks_with_objectives: Path) -> None:
    assert_same_curve(case, two_ranks_with_objectives)


@pytest.mark.parametrize("case", ON_FOUR)
def test_four_ranks_give_the_curve_of_one(case: str, four_ranks: Path) -> None:
    assert_same_curve(case, four_ranks)


@pytest.mark.parametrize("case", ["nan in log-probs", "infinite gradient"])
def test_what_is_not_finite_on_one_rank_is_skipped_on_all_and_training_goes_on(case: str, two_ranks: Path) -> None:
    figures = json.loads((two_ranks / f"{case}.json").read_text())
    skipped = [step["skipped_updates"] for step in figures]
    assert skipped == [1 if step == POISONED_STEP else 0 for step in range(len(figures))]
    assert figures[-1]["gradient_norm"] > 0


def test_the_work_is_dealt_out(two_ranks: Path) -> None:
    """Each of two ranks makes about half of the passes that one makes alone."""
    alone = of_one_process("current sums")[0][0][DEALT_OUT]
    shared = json.loads((two_ranks / "current sums.json").read_text())[0][DEALT_OUT]
    assert shared <= alone / 2 + 1


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_checkpoint_of_two_ranks_goes_on_on_one_and_on_four(ranks: int, saved_by_two_ranks: Path) -> None:
    uninterrupted = json.loads((saved_by_two_ranks / "save.json").read_text())
    if ranks == 1:
        resumed = go_on(saved_by_two_ranks, Ranks(torch.device("cpu")), resume=True)
    else:
        run_ranks(ranks, CHECKPOINT, saved_by_two_ranks, "resume")
        resumed = json.loads((saved_by_two_ranks / "resume.json").read_text())
    assert_same_figures(resumed, uninterrupted)
