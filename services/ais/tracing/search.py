"""Finds a group in a run, whatever became of it, and says where its time went."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ais.launcher.directory.run_directory import RunDirectory
from ais.runtime.settings import RunSettings
from ais.tracing.log_lines import LogLine, lines_about
from ais.tracing.queue import Live
from ais.tracing.records import Step, entry_of, newest_version, read_groups, read_steps
from ais.tracing.stations import Station, stations_of

SHOWN = 5
"""Missing ordinals that are named."""


class UnknownGroupError(LookupError):
    """The run has no such group. The message says what it has."""


class NoGroupIdError(ValueError):
    """What was asked for is no name of a group."""


@dataclass(frozen=True)
class Wanted:
    """The group that is asked for."""

    ordinal: int
    group_id: str | None
    """None: whichever group has come to the ordinal's place."""

    @classmethod
    def of(cls, text: str, run: str) -> Wanted:
        """`text`: `37` or `RUN-37-1`; `run`: a name to explain that with. Raises NoGroupIdError."""
        if re.fullmatch(r"\d{1,15}", text):
            return cls(int(text), None)
        if (match := re.fullmatch(r".+-(\d{1,15})-\d{1,9}", text)) is None:
            raise NoGroupIdError(
                f"{text!r} is not the id of a group: expected RUN-ORDINAL-ATTEMPT, such as {run}-37-1, as steps.jsonl "
                "and the logs have it, or an ordinal alone, such as 37"
            )
        # Not refused for its run's name: a run may have been moved to a directory of another.
        return cls(int(match[1]), text)


@dataclass(frozen=True)
class Trace:
    """What became of a group."""

    run: str
    group_id: str | None
    """None: no group of the ordinal has a name that is known."""
    ordinal: int
    batch: int
    """It is trained in the step after so many."""
    state: str
    """trained, queued, refused, replaced, open or waiting."""
    summary: str
    """The state in words."""
    stations: Sequence[Station] = ()
    group: Mapping[str, Any] = field(default_factory=dict)
    """As `groups.jsonl` describes it, as far as it is known."""
    step: Step | None = None
    """What trained it."""
    logs: Sequence[LogLine] = ()


def trained(directory: RunDirectory, run: RunSettings, wanted: Wanted) -> Trace | None:
    """The trace of a group whose batch is trained; None where it is not. Raises UnknownGroupError."""
    batch = _batch_of(run, wanted.ordinal)
    lines = read_groups(directory, batch + 1)
    known = next((one for one in lines if one.get("ordinal") == wanted.ordinal), None)
    admitted = known.get("admitted_version") if known else None
    steps = read_steps(directory, {batch + 1, admitted or 0})
    step = steps.get(batch + 1)
    group_id = step.group_of(wanted.ordinal) if step else None
    if step is None or group_id is None:
        return None
    if wanted.group_id not in (None, group_id):
        logs = lines_about(directory, wanted.group_id or "")
        if not logs:
            raise UnknownGroupError(
                f"no record and no log of the run names {wanted.group_id}; in the place of ordinal {wanted.ordinal} "
                f"{group_id} was trained"
            )
        summary = f"came to nothing, as its log lines say; in its place {group_id} was trained in step {step.version}"
        return Trace(run.name, wanted.group_id, wanted.ordinal, batch, "replaced", summary, step=step, logs=logs)
    entry_id, checkpoint = entry_of(directory, group_id) or (None, None)
    group = known or {"group_id": group_id, "ordinal": wanted.ordinal, "entry_id": entry_id}
    summary = f"trained in step {step.version}, whose policy is version {step.version} ({step.digest})"
    summary += f"; committed with step {checkpoint}" if checkpoint else "; not in a checkpoint yet"
    return Trace(
        run=run.name,
        group_id=group_id,
        ordinal=wanted.ordinal,
        batch=batch,
        state="trained",
        summary=summary,
        stations=stations_of(group, lines, step, steps.get(admitted or 0)),
        group=group,
        step=step,
        logs=lines_about(directory, group_id),
    )


def under_way(directory: RunDirectory, run: RunSettings, wanted: Wanted, live: Live | str) -> Trace:
    """The trace of a group whose batch is not trained. `live`: what Redis knows, or why it cannot be asked. Raises
    UnknownGroupError."""
    batch = _batch_of(run, wanted.ordinal)
    known = live if isinstance(live, Live) else None
    version = known.version if known and known.version is not None else newest_version(directory)
    entry = known.entry if known else None
    admitted = entry.get("admitted_version") if entry else None
    group_id = wanted.group_id or (entry and entry["group_id"]) or None
    refusal = next((one for one in known.refusals if one.group_id == wanted.group_id), None) if known else None
    logs = lines_about(directory, group_id) if group_id else []

    def trace(
        state: str, summary: str, stations: Sequence[Station] = (), group: Mapping[str, Any] | None = None
    ) -> Trace:
        return Trace(run.name, group_id, wanted.ordinal, batch, state, summary, stations, group or {}, logs=logs)

    if refusal is not None:
        return trace("refused", f"the trainer refused it: {refusal.reason} (`ais deadletter` shows it)")
    if entry is not None and wanted.group_id in (None, entry["group_id"]):
        waits = _waits_for(run, batch, known, version)
        allowed_by = read_steps(directory, {admitted}).get(admitted) if admitted else None
        return trace("queued", f"in the queue; {waits}", stations_of(entry, (), None, allowed_by), entry)
    if wanted.group_id is not None and not logs:
        raise UnknownGroupError(
            f"no record, no log and no queue of the run names {wanted.group_id}; `ais trace {directory.name} "
            f"{wanted.ordinal}` says what is known of its ordinal"
        )
    if entry is not None:
        return trace("replaced", f"came to nothing, as its log lines say; {entry['group_id']} is in the queue instead")
    if known is None:
        return trace("open", f"not trained: the newest step is {version}. Its queue cannot be asked: {live}")
    if known.finished:
        return trace("open", f"not trained: the run has ended at version {version}")
    if wanted.ordinal >= (version + run.max_staleness + 1) * run.groups_per_batch:
        needed = batch - run.max_staleness
        return trace("waiting", f"not begun: it is sampled once the trainer has version {needed}, which has {version}")
    before = "".join(f"; {one.group_id or 'a group'} was refused before: {one.reason}" for one in known.refusals)
    return trace("open", f"not in the queue: it is being sampled, or waits for a replica{before}")


def _batch_of(run: RunSettings, ordinal: int) -> int:
    """Raises UnknownGroupError where the run has no such ordinal."""
    if ordinal >= (ordinals := run.steps * run.groups_per_batch):
        raise UnknownGroupError(f"the run has the ordinals 0 to {ordinals - 1}, not {ordinal}")
    return ordinal // run.groups_per_batch


def _waits_for(run: RunSettings, batch: int, live: Live | None, version: int) -> str:
    missing = [
        ordinal
        for ordinal in range(batch * run.groups_per_batch, (batch + 1) * run.groups_per_batch)
        if live is not None and ordinal not in live.arrived
    ]
    if missing:
        named = ", ".join(map(str, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        return f"its batch waits for {len(missing)} of {run.groups_per_batch} groups (ordinals {named})"
    return f"its batch is complete, and the trainer, at version {version}, trains it as batch {batch}"
