"""What a newcomer meets first: the import, the example of the README, the wheel."""

import json
import re
import subprocess
import sys
from pathlib import Path

import torch

import ais_core

PACKAGE = Path(ais_core.__file__).parent


def test_importing_the_package_and_its_settings_does_not_import_torch() -> None:
    code = "import sys, ais_core, ais_core.settings; ais_core.CorrectionSettings(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_loaded() -> None:
    for name in ais_core.__all__:
        assert getattr(ais_core, name).__name__ == name


def test_the_first_example_of_the_readme_runs() -> None:
    names: dict[str, object] = {}
    exec(first_example(), names)
    assert names["weights"].shape == (6,)


def first_example() -> str:
    return re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)[0]


ALONE = """
import json, sys
sys.path[:0], sys.path[len(sys.path):] = [sys.argv[1]], [sys.argv[2]]
import torch
before = set(sys.modules)
exec(sys.argv[3])
import ais_core.advantages, ais_core.numerics, ais_core.objectives, ais_core.shrinkage
new = {name.split(".")[0] for name in set(sys.modules) - before}
print()
print(json.dumps({"file": ais_core.__file__, "new": sorted(new)}))
"""


def test_the_wheel_alone_runs_the_example_with_torch_and_the_standard_library(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", tmp_path, PACKAGE], check=True
    )
    (wheel,) = tmp_path.glob("ais_core-*.whl")
    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-index", "--no-deps", "--target", target, wheel], check=True)
    # Isolated and without `site`: no .pth file of the environment leads back to the repository.
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ALONE, target, Path(torch.__file__).parents[1], first_example()],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert Path(found["file"]).is_relative_to(target)
    assert set(found["new"]) - {"ais_core", "torch"} <= sys.stdlib_module_names
    source = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert {path.relative_to(target / "ais_core") for path in (target / "ais_core").rglob("*.py")} == source
    assert (target / "ais_core" / "py.typed").is_file()
