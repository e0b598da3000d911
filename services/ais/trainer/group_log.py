"""Where each group spent its time, one JSON object a line in `groups.jsonl` of the run's directory, for `ais trace`.

The keys of a line: version (of the policy after the group's step), incarnation, group_id, ordinal, attempt, redraw,
entry_id (the queue's, which begins with the time of its publication in ms), prompt_id, replicas (that sampled it),
tokens (sampled), versions (the oldest and the newest that sampled a token), admitted_version (of the trainer's policy,
which allowed the ordinal to be started), and Unix times in seconds by the
collector's clock: drawn, sent, first_token, last_token, answered, judged. first_token and last_token are what the
replica measured, counted from `sent`; null for episodes, where a replica waits between turns. Every time is null where
the collector is of an earlier release, and so is admitted_version.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ais.contracts.journey.description import described
from ais.runtime.files import drop_older_half, rewind_lines
from ais.trainer.groups.intake import Buffered

_encode = json.JSONEncoder(check_circular=False).encode
GROUPS_FILE = "groups.jsonl"
LARGEST_FILE = 16 * 1024 * 1024
"""Bytes, of about 40,000 groups. When the file has grown beyond them, the older half of its lines goes."""


def append(directory: Path, version: int, incarnation: int, batch: Sequence[Buffered]) -> None:
    """Adds the groups of the batch that made `version`."""
    trained = {"version": version, "incarnation": incarnation}
    lines = [_encode(trained | described(item.group, item.entry.entry_id)) + "\n" for item in batch]
    with (directory / GROUPS_FILE).open("a", encoding="utf-8") as file:
        file.write("".join(lines))
        size = file.tell()
    if size > LARGEST_FILE:
        drop_older_half(directory / GROUPS_FILE)


def rewind(directory: Path, version: int) -> None:
    """Forgets the groups of steps after `version`: they are trained again."""
    rewind_lines(directory / GROUPS_FILE, "version", version)
