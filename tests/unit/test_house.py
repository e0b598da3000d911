"""The shape of the repository: what a newcomer opens is never too much at once, and is written in plain English."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_FILES = 16
"""Python files that lie flat in one folder: more of them have packages within."""


def python_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_folder_has_too_many_files_flat() -> None:
    counts = Counter(path.parent.relative_to(ROOT) for path in python_files())
    assert {str(folder): count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_no_docstring_begins_with_of() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and node.value.value.lstrip().startswith("Of ")
    ]
    assert found == []


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports a test file by its bare name: two of one name end a whole run at its collection."""
    names = Counter(path.name for path in python_files() if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_git_ignores_no_source_file() -> None:
    """A file that .gitignore names by accident is there for whoever wrote it and missing from every clone."""
    folders = ["ais_core", "services", "proto", "benchmarks", "tests", "examples", "deploy", "docs"]
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line for line in listed.stdout.splitlines() if "__pycache__" not in line and not line.endswith(".pyc")]
    assert found == []
