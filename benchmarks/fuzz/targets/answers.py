"""What is answered: by the policy, by reward services, by the processes that run verifiers and environments."""

from __future__ import annotations

import json

from ais.collector.environments.calls import EnvironmentFaultError, messages_in, step_in, tools_in
from ais.collector.environments.protocol import PolicyTurn, Prompt
from ais.collector.environments.tools import Calculator
from ais.collector.judging.judgement import Failure
from ais.collector.judging.replies import WorkerDiedError, failure_in, judgement_in, reply_in
from ais.collector.judging.service import ServiceRefusedError, judgements_in
from ais.collector.rewards.countdown import calculated
from ais.collector.rewards.extraction import extracted
from ais.collector.rewards.json_answers import parsed
from ais.collector.rewards.numbers import number_in
from ais.collector.settings.rewards import Extraction
from ais.contracts.sampling import FinishReason
from benchmarks.fuzz.target import Target, Targets


def read_scores(content: bytes) -> None:
    """As the collector reads what a reward service says of two responses."""
    for judgement in judgements_in(content, 2):
        assert isinstance(judgement, Failure) or judgement


def read_reply(content: bytes) -> None:
    """As the collector reads a line of a worker, which was asked for a score, a beginning and a step."""
    reply = reply_in(content)
    if "failed" in reply:
        failure_in(reply)
        return
    judgement_in(reply)
    messages_in(reply.get("messages"))
    tools_in(reply.get("tools"))
    step_in(reply)


_EXTRACTIONS: tuple[Extraction, ...] = ("whole", "answer_tag", "hash", "boxed")


def read_response(content: bytes) -> None:
    """As verifiers and tools read what the policy wrote."""
    text = content.decode(errors="replace")
    for extraction in _EXTRACTIONS:
        if (answer := extracted(text, extraction)) is not None:
            number_in(answer)
            calculated(answer)
            parsed(answer)
    environment = Calculator()
    environment.reset(Prompt("prompt", "", "42"))
    messages_in(environment.step(PolicyTurn(text, FinishReason.STOP, 0, 4)).messages)


_STEP = {"state": "", "messages": [{"role": "tool", "content": "4"}], "reward": 0.5, "done": False}
_TOOLS = [{"type": "function", "function": {"name": "calculate", "parameters": {}}}]
_CALL = b'<tool_call>{"name": "calculate", "arguments": {"expression": "(2 * 21) / 7"}}</tool_call>'

TARGETS: Targets = {
    "scores": Target(
        read_scores,
        (ServiceRefusedError,),
        (b'{"scores": [1, {"format": 0.5}]}', b'{"scores": [{"error": "why"}, 1e3]}'),
    ),
    "reply": Target(
        read_reply,
        (WorkerDiedError, EnvironmentFaultError),
        (
            b'{"scores": {"": 0.5}}',
            b'{"failed": "memory", "reason": "why"}',
            json.dumps(_STEP | {"tools": _TOOLS, "scores": {"format": 1}}).encode(),
        ),
    ),
    "response": Target(
        read_response,
        (),
        (b"<answer>1,000.5 %</answer>", b'#### {"a": [1, 2.5]}', b"so \\boxed{(1 + 2) * 3}", _CALL),
    ),
}
