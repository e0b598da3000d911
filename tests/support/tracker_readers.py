"""What a tracker has of a run, by its own readers: {name: {step: number}}.

`python -m tests.support.tracker_readers TRACKER RUN_DIRECTORY` prints it as JSON, because trackio reads where its data
is from the environment of a process that begins.
"""

from __future__ import annotations

import json
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Columns = dict[str, dict[int, float]]


def tensorboard(directory: Path) -> Columns:
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    events = EventAccumulator(str(directory / "tensorboard"), size_guidance={SCALARS: 0})
    events.Reload()
    columns: Columns = {}
    for name in events.Tags()[SCALARS]:
        points = [(event.step, event.value) for event in events.Scalars(name)]
        columns[name] = dict(points)
        assert len(points) == len(columns[name]), f"{name} has a step twice"
    return columns


def wandb(directory: Path) -> Columns:
    columns: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for history in _history(directory):
        row = {item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json) for item in history}
        step = row["step"]
        for name, value in row.items():
            if not name.startswith("_") and name != "step":
                assert step not in columns[name], f"{name} has step {step} twice"
                columns[name][step] = value
    return dict(columns)


def _history(directory: Path) -> Iterator[Any]:
    """The history records of an offline run: a file of LevelDB's log format, with wandb's own messages in it."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (directory / "wandb").glob("offline-run-*/run-*.wandb")
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            record = Record.FromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == "history":
                yield record.history.item


def trackio(directory: Path) -> Columns:
    from trackio.sqlite_storage import SQLiteStorage

    settings = json.loads((directory / "tracking.json").read_text())
    columns: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for row in SQLiteStorage.get_logs(settings["settings"]["tracking"]["project"], trackio_name(directory)):
        for name, value in row.items():
            if name not in ("timestamp", "step"):
                assert row["step"] not in columns[name], f"{name} has step {row['step']} twice"
                columns[name][row["step"]] = value
    return dict(columns)


def trackio_name(directory: Path) -> str:
    return f"{directory.name}-{json.loads((directory / 'tracking.json').read_text())['id'][:6]}"


if __name__ == "__main__":
    print(json.dumps({"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}[sys.argv[1]](Path(sys.argv[2]))))
