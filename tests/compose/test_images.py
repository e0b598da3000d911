"""The images say what is in them: every Python distribution and every Debian package, each as it was installed."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compose_stack import IMAGE_TAG, Stack, stack_of

pytestmark = [pytest.mark.compose, pytest.mark.timeout(2400)]

IMAGES = ("ais-rl", "ais-rl-vllm-cpu")
PYTHON_MATERIALS = "/usr/share/sbom/ais.cdx.json"
DEBIAN_MATERIALS = "/usr/share/sbom/debian.txt"
INSTALLED = (
    "import importlib.metadata, json; "
    "print(json.dumps({one.name: one.version for one in importlib.metadata.distributions()}))"
)


@pytest.fixture(scope="module")
def built(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    files = ("docker-compose.yml", "deploy/compose.vllm.yml")
    settings = tmp_path_factory.mktemp("stack") / "env"
    with stack_of(request, repository, (), settings, *files, build=("trainer", "rollout")) as stack:
        yield stack


def output_in(stack: Stack, image: str, program: str, *arguments: str) -> str:
    return stack.docker(
        "run", "--rm", "--network", "none", "--entrypoint", program, f"{image}:{IMAGE_TAG}", *arguments, timeout=300
    )


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_bill_of_the_python_distributions_that_are_in_it(
    built: Stack, repository: Path, image: str
) -> None:
    bill = json.loads(output_in(built, image, "cat", PYTHON_MATERIALS))
    assert bill["bomFormat"] == "CycloneDX"
    project = bill["metadata"]["component"]
    listed = {one["name"]: one["version"] for one in bill["components"]}
    assert listed | {project["name"]: project["version"]} == json.loads(
        output_in(built, image, "python", "-c", INSTALLED)
    )
    pinned = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (torch,) = (one.removeprefix("torch==") for one in pinned if one.startswith("torch=="))
    assert re.fullmatch(rf"{re.escape(torch)}(\+\w+)?", listed["torch"])


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_list_of_the_debian_packages_that_are_in_it(built: Stack, image: str) -> None:
    listed = output_in(built, image, "cat", DEBIAN_MATERIALS)
    assert "ca-certificates\t" in listed
    assert listed == output_in(built, image, "dpkg-query", "--show")
