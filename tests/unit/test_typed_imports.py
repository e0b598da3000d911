"""mypy runs in `make check` before optional packages are there, and must find the same as where they are."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def installed_by(requirements: list[str]) -> set[str]:
    """The distributions that pip installs for them, by what each installed one requires."""
    found, waiting = set[tuple[str, frozenset[str]]](), [Requirement(line) for line in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in found:
            continue
        found.add((name, frozenset(wanted.extras)))
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *wanted.extras)):
                waiting.append(needed)
    return {name for name, _ in found}


def imported(folders: list[str]) -> dict[str, str]:
    """Each top-level package that the sources import, with one file that does."""
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, str] = {}
    for file in filter(lambda file: file.endswith(".py"), listed.stdout.splitlines()):
        for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0]: file for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                found[node.module.partition(".")[0]] = file
    return found


def test_types_need_no_package_that_only_some_environments_have() -> None:
    project = PROJECT["project"]
    installed = installed_by([*project["dependencies"], *project["optional-dependencies"]["dev"]])
    named = {
        module.removesuffix(".*")
        for override in PROJECT["tool"]["mypy"]["overrides"]
        if override.get("ignore_missing_imports") or override.get("ignore_errors")
        for module in override["module"]
    }
    distributions = metadata.packages_distributions()
    found = {
        package: file
        for package, file in imported(["ais_core", "services", "benchmarks"]).items()
        if package not in sys.stdlib_module_names | {"ais_core", "ais", "benchmarks", "tests"} | named
        and not any(canonicalize_name(name) in installed for name in distributions.get(package, []))
    }
    assert found == {}, "mypy finds no such package where only '.[dev]' is installed: name them in its overrides"
