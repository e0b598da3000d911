"""The tests in tests/gpu: what is computed on the device is what is computed on a processor."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu import processes
from benchmarks.gpu.points import CAUSE, Session, Values

MESSAGE = 150
"""Characters of each failure that are kept."""
TESTS = Path(__file__).parents[2] / "tests" / "gpu"


def measure(session: Session) -> None:
    for file in sorted(TESTS.glob("test_*.py")):
        session.measure(file.stem, partial(_tested, session, file))


def _tested(session: Session, file: Path) -> Values:
    """How many tests of a file passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "--timeout=60",
            "-k",
            session.device,
        ]
        code, late = processes.run([*command, f"--junitxml={report}", file], session.seconds_left, cwd=TESTS.parents[1])
        if late or not report.is_file():
            raise RuntimeError(f"pytest ended with {code} and no report" if not late else "the time was up")
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        f"{case.get('name')}: {found.get('message', '')[:MESSAGE]}"
        for case in cases
        for found in case
        if found.tag in ("failure", "error")
    ]
    skipped = sum(found.tag == "skipped" for case in cases for found in case)
    values: dict[str, float | str] = {
        "passed": len(cases) - len(failed) - skipped,
        "failed": len(failed),
        "skipped": skipped,
    }
    # A point with an error is measured again when the parts are run again.
    return values | {"error": "\n".join(failed)[:CAUSE]} if failed else values
