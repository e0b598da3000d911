"""What a newcomer meets first: the import, and the example of the README."""

import re
import subprocess
import sys
from pathlib import Path

import ais_core

PACKAGE = Path(ais_core.__file__).parent


def test_importing_the_package_and_its_settings_does_not_import_torch() -> None:
    code = "import sys, ais_core, ais_core.settings; ais_core.CorrectionSettings(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_loaded() -> None:
    for name in ais_core.__all__:
        assert getattr(ais_core, name).__name__ == name


def test_the_first_example_of_the_readme_runs() -> None:
    example = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(example, names)
    assert names["weights"].shape == (6,)
