"""The dashboards, from symptom to cause, row by row. Writes deploy/grafana/dashboards/*.json.

python deploy/grafana/dashboards.py            # write them
python deploy/grafana/dashboards.py --check    # fail where the files differ from this
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from boards.alerts import ALERTS
from boards.fleet import FLEET
from boards.mismatch import MISMATCH
from boards.panels import built
from boards.queue import QUEUE
from boards.training import TRAINING
from grafana_foundation_sdk.cog.encoder import JSONEncoder

FOLDER = Path(__file__).parent / "dashboards"


def files() -> Iterator[tuple[Path, str]]:
    """Each dashboard's file, and what belongs in it."""
    for board in (TRAINING, MISMATCH, FLEET, QUEUE, ALERTS):
        yield FOLDER / f"{board.name}.json", JSONEncoder(sort_keys=True, indent=1).encode(built(board)) + "\n"


def main() -> None:
    if "--check" in sys.argv[1:]:
        wrong = [path.name for path, text in files() if not path.is_file() or path.read_text("utf-8") != text]
        if wrong:
            sys.exit(f"{', '.join(wrong)} are not what deploy/grafana/dashboards.py makes: run it")
        return
    for path, text in files():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
