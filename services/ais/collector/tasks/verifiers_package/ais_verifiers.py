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
from aiohttp import web
from verifiers.v1.clients.client import SESSION_ID_HEADER
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
LARGEST_BODY = 16 * 1024 * 1024
"""Bytes of a call; the endpoint takes fewer."""
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
    alone = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # the endpoint closes what is idle
    return httpx.AsyncClient(verify=False, trust_env=False, timeout=None, limits=alone)


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


class Relay:
    """One address for all episodes. verifiers keeps a client for each address that it calls, with certificates and
    connections, for as long as it runs: an address for each episode would take ever more memory."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.episodes: dict[str, tuple[str, str]] = {}
        """Base URL and key, by the id that verifiers puts into the head of a call."""
        self._http = http

    async def serve(self) -> str:
        """Its base URL. It ends with this process."""
        app = web.Application(client_max_size=LARGEST_BODY)
        app.router.add_route("*", "/v1/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        where = self.episodes.get(request.headers.get(SESSION_ID_HEADER, ""))
        if where is None:
            return web.json_response({"error": {"message": "a call of no episode that is played"}}, status=404)
        url = f"{where[0]}/{request.match_info['path']}"
        head = {"authorization": f"Bearer {where[1]}", "content-type": "application/json"}
        async with self._http.stream(request.method, url, headers=head, content=await request.read()) as answer:
            kind = {"content-type": answer.headers.get("content-type", "application/json")}
            passed = web.StreamResponse(status=answer.status_code, headers=kind)
            await passed.prepare(request)
            async for piece in answer.aiter_bytes():
                await passed.write(piece)
            await passed.write_eof()
            return passed


class Player:
    """Plays episodes at once, as many as there are lines."""

    def __init__(self, env: Any, replies: int) -> None:
        self._env = env
        self._replies = replies
        """File descriptor that is written to, and nobody else's."""
        self._running: dict[int, asyncio.Task[None]] = {}
        self._http: httpx.AsyncClient
        self._relay: Relay
        self._address = ""

    async def serve(self) -> None:
        """Until standard input ends."""
        reader = asyncio.StreamReader(limit=LONGEST_LINE)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async with local_client() as self._http, self._env.serving():
            self._relay = Relay(self._http)
            self._address = await self._relay.serve()
            self._say({"ready": True})
            while line := await reader.readline():
                asked = json.loads(line)
                if "cancel" in asked:
                    if (task := self._running.get(asked["cancel"])) is not None:
                        task.cancel()
                else:
                    self._running[asked["episode"]] = asyncio.create_task(self._play(asked))

    async def _play(self, asked: Mapping[str, Any]) -> None:
        number, traces = asked["episode"], list[str]()
        try:
            failed = await self._failure(asked, traces)
        except asyncio.CancelledError:
            failed = "cancelled"
        except Exception as error:  # an environment is anybody's code
            failed = f"{type(error).__name__}: {error}"
        finally:
            for trace in traces:
                del self._relay.episodes[trace]
            del self._running[number]
        self._say({"episode": number, "failed": failed})

    async def _failure(self, asked: Mapping[str, Any], traces: list[str]) -> str | None:
        def begun(trace: Any) -> None:
            traces.append(trace.id)
            self._relay.episodes[trace.id] = (asked["base_url"], asked["key"])

        kind = type(self._env.taskset).task_type()
        task = kind(kind.data_type().model_validate(asked["task"]), self._env.config.taskset.task)
        client = vf.EvalClientConfig(base_url=self._address, api_key_var="AIS_NO_KEY")  # the relay has the keys
        (slot,) = self._env.slots(task)
        episode = await self._env.run_slot(slot, vf.ModelContext(model="policy", client=client), on_trace=begun)
        if not episode.ok:
            errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
            last = errors[-1] if errors else None
            return f"{last.type} {last.status_code or ''}: {last.message}" if last else "it failed and does not say why"
        trained = [trace for trace in episode.traces if trace.agent.trainable]
        if len(trained) != 1:
            return f"an episode must have one agent that is trained, this one has {len(trained)}"
        answer = await self._http.post(
            f"{asked['base_url']}/end",
            headers={"authorization": f"Bearer {asked['key']}"},
            json={"reward": trained[0].reward},
        )
        return None if answer.is_success else f"the reward {trained[0].reward!r} was refused: {answer.text}"

    def _say(self, reply: Mapping[str, Any]) -> None:
        os.write(self._replies, json.dumps(reply).encode() + b"\n")


def _first_line() -> bytes:
    """The first line of standard input, and not a byte more: the rest is there for whoever reads next."""
    with open(0, "rb", buffering=0, closefd=False) as file:
        return file.readline()


def main() -> None:
    replies = os.dup(1)
    os.dup2(2, 1)
    sys.modules[NAME] = sys.modules[__name__]
    asked = json.loads(_first_line())
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
