"""The Python that has the package `verifiers`: `make test` makes it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

INTERPRETER = Path(os.environ.get("AIS_VERIFIERS_PYTHON") or Path(sys.prefix) / "verifiers" / "bin" / "python")
