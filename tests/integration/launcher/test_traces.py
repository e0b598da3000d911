"""Spans of a real run, at a receiver of OTLP: one trace from the prompt to the optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.monitoring.span_receiver import ReceivedSpan, Receiver, receiving
from tests.support.runs import EXAMPLES, Run, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STEPS = 2
GROUPS = 4
WAY = {  # of each span of a group's trace: its service, and the span that it is a child of
    "group": ("ais-collector", None),
    "generate": ("ais-collector", "group"),
    "generate at the replica": ("ais-rollout", "generate"),
    "wait for a slot": ("ais-rollout", "generate at the replica"),
    "read the prompt": ("ais-rollout", "generate at the replica"),
    "sample": ("ais-rollout", "generate at the replica"),
    "judge": ("ais-collector", "group"),
    "publish": ("ais-collector", "group"),
    "train": ("ais-trainer", "group"),
}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Receiver]]:
    """A run that has ended, and what came of it."""
    with receiving() as receiver, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        settings = {"run.steps": STEPS, "run.groups_per_batch": GROUPS}
        with started(EXAMPLES / "sort16" / "config.toml", tmp_path_factory.mktemp("traced"), settings) as run:
            run.ended_well()
            yield run, receiver


def way(spans: list[ReceivedSpan]) -> dict[str, tuple[str, str | None]]:
    """The spans of a trace as `WAY` has them."""
    names = {one.id: one.name + (" at the replica" if one.service == "ais-rollout" else "") for one in spans}
    names |= {one.id: one.name for one in spans if one.name != "generate"}
    return {names[one.id]: (one.service, names[one.parent] if one.parent else None) for one in spans}


def test_each_group_is_one_trace_from_its_prompt_to_the_optimizer_step(traced: tuple[Run, Receiver]) -> None:
    run, receiver = traced
    trained = [name for line in run.lines("steps") for name in line["group_ids"]]
    assert len(trained) == STEPS * GROUPS
    groups = {str(span.attributes["ais.group"]): span for span in receiver.named("group")}
    for name in trained:
        spans = receiver.trace(groups[name].trace)
        assert way(spans) == WAY, name
        ends = {span.name: span for span in spans}
        for earlier, later in (("sample", "judge"), ("judge", "publish"), ("wait for a slot", "sample")):
            assert ends[earlier].end <= ends[later].end
        assert ends["publish"].end <= ends["train"].end
        assert all(span.begin <= span.end for span in spans)
        assert float(ends["train"].attributes["ais.queued_seconds"]) > -0.01


def test_a_step_is_linked_to_the_traces_of_its_groups_and_they_to_it(traced: tuple[Run, Receiver]) -> None:
    run, receiver = traced
    steps = {span.attributes["ais.version"]: span for span in receiver.named("step")}
    groups = {str(span.attributes["ais.group"]): span.trace for span in receiver.named("group")}
    for line in run.lines("steps"):
        step = steps[line["version"]]
        assert step.linked == {groups[name] for name in line["group_ids"]}
        trained = [span for span in receiver.named("train") if span.attributes["ais.version"] == line["version"]]
        assert [span.linked for span in trained] == [{step.trace}] * GROUPS


def test_the_push_of_a_version_is_in_its_steps_trace_up_to_the_replica_that_applies_it(
    traced: tuple[Run, Receiver],
) -> None:
    _run, receiver = traced
    for step in receiver.named("step"):
        spans = {span.id: span for span in receiver.trace(step.trace)}
        (applied,) = [span for span in spans.values() if span.name == "apply weights"]
        line = [applied]
        while line[-1].parent:
            line.append(spans[line[-1].parent])
        assert [(span.service, span.name) for span in line] == [
            ("ais-rollout", "apply weights"),
            ("ais-rollout", "offer weights"),
            ("ais-trainer", "push weights"),
            ("ais-trainer", "step"),
        ]


def test_no_prompt_and_no_response_is_in_a_span(traced: tuple[Run, Receiver]) -> None:
    run, receiver = traced
    sent = b"".join(receiver.raw)
    samples = run.lines("samples")
    assert samples
    assert all(line[key].encode() not in sent for line in samples for key in ("prompt", "response") if line[key])


def test_what_is_sent_is_counted(traced: tuple[Run, Receiver]) -> None:
    run, receiver = traced
    assert len(receiver.spans) > STEPS * GROUPS * len(WAY)
    assert "traces have holes" not in "".join(path.read_text() for path in Path(run.directory / "logs").iterdir())
