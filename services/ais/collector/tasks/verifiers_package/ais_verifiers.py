"""Runs in a Python that has `verifiers` 0.4, and perhaps nothing of ours: it is started by its path.

    PYTHON -P ais_verifiers.py tasks    # one line of JSON for each task
    PYTHON -P ais_verifiers.py play     # plays episodes until its standard input ends

The first line of standard input is an object: `env`, as verifiers' own configuration has it; `turns` of the policy;
`most`, the tasks that are told. `play` then reads one line for each episode, `{"episode", "task", "base_url", "key"}`,
and `{"cancel": EPISODE}`. It answers `{"ready": true}`, then `{"episode": N, "failed": null}`, or why it failed, for
each. An episode's reward goes to its base URL, with `POST /end`. Whatever environments print goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from itertools import islice
from typing import Any

import httpx
import verifiers.v1 as vf
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.utils.loaders import (
    default_harness_id,
    env_config_type,
    load_environment,
    resolve_env_config,
)

__all__ = ["ChatHarness"]

NAME = "ais_verifiers"
"""This module's name, by which verifiers finds the harness below."""
LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of a line of standard input."""


class ChatHarness(vf.Harness[vf.HarnessConfig]):
    """One call of the policy for each turn, made here: without a program, a sandbox or tools."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: Any,
        trace: Any,  # noqa: ARG002
        runtime: Any,  # noqa: ARG002
        endpoint: str,
        secret: str,
        mcp_urls: Mapping[str, str],  # noqa: ARG002
        data: Any,
    ) -> Any:
        system, prompt = self.resolve_prompt(data)
        messages = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message_to_wire(message) for message in prompt or ()]
        try:
            async with local_client() as http:
                answer = await http.post(
                    f"{endpoint}/chat/completions",
                    headers={"authorization": f"Bearer {secret}"},
                    json={"model": ctx.model, "messages": messages},
                )
        except httpx.HTTPError as error:
            return vf.ProgramResult(exit_code=1, stdout="", stderr=repr(error))
        return vf.ProgramResult(exit_code=int(answer.is_error), stdout="", stderr=answer.text)


def local_client() -> httpx.AsyncClient:
    """Calls this machine: by no proxy and without certificates, which take longer to load than a call."""
    return httpx.AsyncClient(verify=False, trust_env=False, timeout=None)


def config_of(env: Mapping[str, Any], turns: int) -> Any:
    """The environment's configuration: what is not said is that episodes run on this machine, in so many turns, and
    by `ChatHarness` where the environment brings no harness of its own."""
    raw = dict(env)
    taskset = raw["taskset"]["id"]
    chats = default_harness_id(taskset) == "bash"  # verifiers' default, which gives the policy a shell
    for name, field in env_config_type(taskset, raw.get("id") or "").model_fields.items():
        if not isinstance(role := field.default, vf.AgentConfig):
            continue
        said = dict(raw.get(name) or {})
        said.setdefault("max_turns", role.max_turns or turns)
        if isinstance(role.runtime, vf.PrimeConfig):  # verifiers' default, a sandbox for which one pays
            said.setdefault("runtime", {"type": "subprocess"})
        if chats and role.harness is None:
            said.setdefault("harness", {"id": NAME})
        raw[name] = said
    return resolve_env_config(raw)


def told_of(task: Any) -> dict[str, Any]:
    """A task as the collector has it: what the policy is asked first, and what makes the task again."""
    data = task.data
    prompt = data.prompt
    if prompt is None:  # the environment opens the conversation: only it knows how
        prompt = data.name or f"task {data.idx}"
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(map(message_to_wire, prompt))
    if data.system_prompt is not None:
        messages = [{"role": "system", "content": data.system_prompt}, *messages]
    for message in messages:
        if isinstance(message["content"], list):
            message["content"] = "".join(part.get("text", "") for part in message["content"])
    return {"key": task.key, "prompt": messages, "task": data.model_dump(mode="json", exclude_unset=True)}


class Player:
    """Plays episodes at once, as many as there are lines."""

    def __init__(self, env: Any, replies: int) -> None:
        self._env = env
        self._replies = replies
        """File descriptor that is written to, and nobody else's."""
        self._running: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Until standard input ends."""
        reader = asyncio.StreamReader(limit=LONGEST_LINE)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async with self._env.serving():
            self._say({"ready": True})
            while line := await reader.readline():
                asked = json.loads(line)
                if "cancel" in asked:
                    if (task := self._running.get(asked["cancel"])) is not None:
                        task.cancel()
                else:
                    self._running[asked["episode"]] = asyncio.create_task(self._play(asked))

    async def _play(self, asked: Mapping[str, Any]) -> None:
        number = asked["episode"]
        variable = f"AIS_EPISODE_API_KEY_{number}"  # verifiers keeps names with API_KEY from what it starts
        os.environ[variable] = asked["key"]
        try:
            failed = await self._failure(asked, variable)
        except asyncio.CancelledError:
            failed = "cancelled"
        except Exception as error:  # an environment is anybody's code
            failed = f"{type(error).__name__}: {error}"
        finally:
            del os.environ[variable]
            del self._running[number]
        self._say({"episode": number, "failed": failed})

    async def _failure(self, asked: Mapping[str, Any], variable: str) -> str | None:
        kind = type(self._env.taskset).task_type()
        task = kind(kind.data_type().model_validate(asked["task"]), self._env.config.taskset.task)
        waiting = {"connect": None}  # a busy machine may take its time
        client = vf.EvalClientConfig(base_url=asked["base_url"], api_key_var=variable, timeout=waiting)
        (slot,) = self._env.slots(task)
        episode = await self._env.run_slot(slot, vf.ModelContext(model="policy", client=client))
        if not episode.ok:
            errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
            last = errors[-1] if errors else None
            return f"{last.type} {last.status_code or ''}: {last.message}" if last else "it failed and does not say why"
        trained = [trace for trace in episode.traces if trace.agent.trainable]
        if len(trained) != 1:
            return f"an episode must have one agent that is trained, this one has {len(trained)}"
        async with local_client() as http:
            answer = await http.post(
                f"{asked['base_url']}/end",
                headers={"authorization": f"Bearer {asked['key']}"},
                json={"reward": trained[0].reward},
            )
        return None if answer.is_success else f"the reward {trained[0].reward!r} was refused: {answer.text}"

    def _say(self, reply: Mapping[str, Any]) -> None:
        os.write(self._replies, json.dumps(reply).encode() + b"\n")


def main() -> None:
    replies = os.dup(1)
    os.dup2(2, 1)
    sys.modules[NAME] = sys.modules[__name__]
    asked = json.loads(sys.stdin.buffer.raw.readline())  # raw: what follows is still there
    sys.path[:0] = [asked["directory"]] if asked["directory"] else []
    env = load_environment(config_of(asked["env"], asked["turns"]))
    if sys.argv[1] == "play":
        asyncio.run(Player(env, replies).serve())
        return
    with os.fdopen(replies, "w", encoding="utf-8") as lines:
        for task in islice(env.taskset, asked["most"]):
            lines.write(json.dumps(told_of(task)) + "\n")


if __name__ == "__main__":
    main()
