"""Tables in the documents are those of the recorded runs."""

import json
from pathlib import Path

from benchmarks.long_answers import report as lengths
from benchmarks.tiny_grpo import frozen_table
from benchmarks.tiny_grpo.report import BLOCK, filled, read

ROOT = Path(__file__).parents[2]


def test_the_frontier_tables_of_the_algorithm_are_made_from_its_runs() -> None:
    text = (ROOT / "docs" / "algorithm.md").read_text()
    assert BLOCK.search(text)
    results = ROOT / "benchmarks" / "results"
    formats = json.loads((results / "frontier_formats.json").read_text())["formats"]
    assert filled(text, read(results / "frontier.jsonl"), formats) == text


def test_the_table_of_the_chain_is_made_from_its_recorded_figures() -> None:
    text = (ROOT / "docs" / "algorithm.md").read_text()
    assert lengths.BLOCK.search(text)
    recorded = json.loads((ROOT / "benchmarks" / "results" / "lengths.json").read_text())
    assert lengths.filled(text, recorded["figures"]) == text


def test_the_table_of_frozen_policies_is_made_from_its_records() -> None:
    text = (ROOT / "docs" / "collapse.md").read_text()
    assert frozen_table.BLOCK.search(text)
    records = read(ROOT / "benchmarks" / "results" / "collapse_frozen.jsonl")
    assert frozen_table.filled(text, records) == text
