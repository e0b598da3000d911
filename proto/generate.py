"""Generates the Python stubs of proto/ into services/ais/contracts/v1, or checks that the committed ones are current.

python proto/generate.py            write them
python proto/generate.py --check    exit 1 and name the files that differ
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
TARGET = ROOT.parent / "services" / "ais" / "contracts" / "v1"


def generate(target: Path) -> None:
    """Writes one flat package of stubs, their imports rewritten to where the package lives."""
    with tempfile.TemporaryDirectory() as scratch:
        well_known = str(resources.files("grpc_tools") / "_proto")
        sources = sorted(str(path) for path in (ROOT / "ais" / "v1").glob("*.proto"))
        outputs = [f"--{kind}={scratch}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        status = protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *outputs, *sources])
        if status != 0:
            raise SystemExit(status)
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((Path(scratch) / "ais" / "v1").iterdir()):
            text = re.sub(r"from ais\.v1 import", "from ais.contracts.v1 import", path.read_text())
            (target / path.name).write_text(text)
    (target / "__init__.py").write_text('"""Generated from proto/ais/v1 by `make proto`; do not edit."""\n')


def differences() -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = {path.name: path.read_bytes() for path in Path(scratch).iterdir()}
    committed = {path.name: path.read_bytes() for path in TARGET.glob("*.py*") if path.is_file()}
    return sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare with the committed stubs")
    if not parser.parse_args().check:
        generate(TARGET)
        return
    if stale := differences():
        sys.exit(f"stubs differ from proto/: {', '.join(stale)}. Run `make proto` and commit the result.")


if __name__ == "__main__":
    main()
