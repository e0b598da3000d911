"""Tables in the documents are those of the recorded runs."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from tiny_grpo.report import BLOCK, filled, read  # noqa: E402  # benchmarks are scripts, not a package that is installed


def test_the_frontier_tables_of_the_algorithm_are_made_from_its_runs() -> None:
    text = (ROOT / "docs" / "algorithm.md").read_text()
    assert BLOCK.search(text)
    results = ROOT / "benchmarks" / "results"
    formats = json.loads((results / "frontier_formats.json").read_text())["formats"]
    assert filled(text, read(results / "frontier.jsonl"), formats) == text
