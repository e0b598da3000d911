"""On what, and of which commit, a cell was trained."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def machine() -> str:
    """Processor, cores, GPU if there is one, and the version of torch."""
    import torch

    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores{gpu}, torch {version('torch')}"


@cache
def commit() -> str:
    """The commit of the source that runs; outside a repository the installed version, or none for a bare copy."""
    if shutil.which("git"):
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if found.stdout:
            return found.stdout.strip()
    try:
        return version("ais-rl")
    except PackageNotFoundError:
        return "none"
