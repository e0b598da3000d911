"""Puts Debian's Prometheus and exporter of Redis beside the Python that runs this, for tests; needs no root.

    python deploy/install_prometheus.py [DIRECTORY]

`apt-get download` asks the machine's own package sources and checks their signatures. Where the lists of packages are
not there, they are fetched into a directory of their own. What a release of Debian has is what the tests use.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = {"prometheus": ("prometheus", "promtool"), "prometheus-redis-exporter": ("prometheus-redis-exporter",)}
"""By package."""
LIMIT_SECONDS = 120
"""Longest that one call of apt-get may take."""


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(sys.executable).parent
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        sys.exit(f"{' and '.join(missing)} not found: put {', '.join(sum(PROGRAMS.values(), ()))} into the PATH")
    for package, programs in PROGRAMS.items():
        install(package, programs, directory)


def install(package: str, programs: tuple[str, ...], directory: Path) -> None:
    """Ends the process where no package source has it."""
    with tempfile.TemporaryDirectory(prefix="ais-prometheus-") as temporary:
        file = downloaded(package, Path(temporary))
        unpacked = Path(temporary) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", file, unpacked], check=True)
        for program in programs:
            shutil.copy2(unpacked / "usr" / "bin" / program, directory / program)


def downloaded(package: str, directory: Path) -> Path:
    """The package's file in `directory`. Ends the process where no package source has it."""
    own = directory / "apt"
    for path in ("lists/partial", "cache/archives/partial"):
        (own / path).mkdir(parents=True)
    options = ["-o", f"Dir::State::lists={own / 'lists'}", "-o", f"Dir::Cache={own / 'cache'}"]
    for limit in ("Retries=0", "http::Timeout=20", "https::Timeout=20"):
        options += ["-o", f"Acquire::{limit}"]  # behind a wall that drops packets apt would wait for minutes
    attempts = (
        [["apt-get", *options[4:], "download", package]],
        [["apt-get", *options, "update"], ["apt-get", *options, "download", package]],
    )
    words = ""
    for commands in attempts:
        for command in commands:
            call = [command[0], "--quiet", *command[1:]]
            try:
                done = subprocess.run(call, cwd=directory, capture_output=True, text=True, timeout=LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                words = f"{command[0]} had not ended after {LIMIT_SECONDS} s"
                continue
            words = done.stderr
        if packages := sorted(directory.glob(f"{package}_*.deb")):
            return packages[0]
    sys.exit(f"no package source has {package}: {words.strip()}")


if __name__ == "__main__":
    main()
