"""TensorBoard: event files in the run's `tensorboard` directory, written by the tensorboard package alone."""

from __future__ import annotations

import json

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ais.launcher.tracking.figures import Entry
from ais.launcher.tracking.tracker import TrackedRun

DIRECTORY = "tensorboard"
"""In the run's directory."""


class TensorBoard:
    """Numbers are float32 there, because TensorBoard's are."""

    rewrites = True

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._writer: EventFileWriter | None = None

    def begin(self) -> int:
        directory = self._run.path / DIRECTORY
        self.close()
        for old in directory.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventFileWriter(str(directory))
        # Tells a TensorBoard that shows the run now to forget what it has read.
        self._writer.add_event(Event(step=0, session_log=SessionLog(status=SessionLog.START)))
        self._writer.add_event(Event(step=0, summary=_text("configuration", self._run.configuration)))
        return 0

    def log(self, entry: Entry) -> None:
        assert self._writer is not None
        values = [Summary.Value(tag=name, simple_value=value) for name, value in entry.figures.items()]
        self._writer.add_event(Event(step=entry.step, wall_time=entry.made, summary=Summary(value=values)))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _text(tag: str, content: object) -> Summary:
    """Text for TensorBoard's page of that name, indented as Markdown's code is."""
    lines = "\n".join(f"    {line}" for line in json.dumps(content, indent=2, ensure_ascii=False).splitlines())
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype=DT_STRING, string_val=[lines.encode()])
    return Summary(value=[Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)])
