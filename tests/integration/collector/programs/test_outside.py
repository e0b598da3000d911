"""Agents elsewhere, which ask for episodes: each a process of its own, over real sockets. The policy is scripted."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import httpx
import openai
import psutil
import pytest

from ais.collector.episodes import harnessed
from ais.collector.episodes.answering import answers
from ais.collector.exercise import Exercise, open_exercise
from ais.collector.judging.harness.outside import OutsideHarness
from ais.collector.judging.judge import UnjudgedError
from ais.collector.prompts.prompts import Split
from ais.collector.settings import CollectorProcessSettings
from ais.runtime.exits import EXIT_UNAVAILABLE, UnavailableError
from ais.runtime.security.roles import Role
from tests.support.access import bearer, tokens
from tests.support.access.deployment import secrets
from tests.support.tiny_models import until
from tests.support.turns.stage import EXAMPLE, GUESSING, Scripted, call, program

GUESS = (4, 5, 2)
"""12 and the end of a turn."""
SERVICE = ("ais.collector.agent",)
"""The module that an agent is."""
PLAYS = "ask()\ncall('/end', {'reward': 1.0})"


class Outside:
    """A collector's part in it."""

    def __init__(self, exercise: Exercise, outcomes: Counter[str]) -> None:
        self.exercise, self.outcomes = exercise, outcomes
        prompt = exercise.prompt(0)
        harness = exercise.harness(prompt)
        assert harness is not None
        self.prompt, self.address = prompt, harness.address

    def group(self, samples: int) -> asyncio.Task[Any]:
        return asyncio.create_task(answers(self.exercise, self.prompt, Scripted(GUESS), call(samples)))


@asynccontextmanager
async def outside(
    security: dict[str, Any] | None = None, port: int = 0, split: Split = Split.TRAIN, **environment: Any
) -> AsyncIterator[Outside]:
    settings = CollectorProcessSettings.model_validate(
        {
            "run": {"model": GUESSING},
            "rollout": {"max_model_len": 256},
            "security": security or {"tokens": tokens()},
            "collector": {
                "task": {"name": "guess_number", "environment": {"name": "outside"} | environment},
                "prompt": {"chat_template": EXAMPLE / "template.jinja"},
                "judging": {"workers": 1},
                "agents_port": port,
            },
        }
    )
    outcomes = Counter[str]()
    observed = lambda _, outcome, __: outcomes.update([outcome.value])  # noqa: E731
    async with open_exercise(settings, split, observed) as opened:
        yield Outside(opened, outcomes)


@contextmanager
def agent(
    directory: Path, url: str, does: str, security: dict[str, Any] | None = None, command: tuple[str, ...] = SERVICE
) -> Iterator[Popen[str]]:
    """Plays one episode after another by a program that is told of it, and may `ask()` and `call(path, body)`."""
    directory.mkdir()
    sections = {
        "agent": {"url": url, "command": program(does), "programs": 1},
        "security": security or {"tokens": str(tokens())},
    }
    lines = [
        line
        for name, section in sections.items()
        for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items()))
    ]
    (directory / "config.toml").write_text("\n".join(lines))
    started = [sys.executable, "-m", *command, "-c", "config.toml"]
    with Popen(started, cwd=directory, stdout=PIPE, stderr=STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harnessed, "PAUSES", (0.01, 0.01))


async def test_an_agent_that_knows_openais_client_alone_plays_what_the_verifiers_judge() -> None:
    async with outside(name="outside", judged_by="verifiers") as made:
        async with httpx.AsyncClient(base_url=made.address, headers=bearer(Role.AGENT), trust_env=False) as client:
            assert (await client.post("/v1/episodes", json={"seconds": 0.01})).status_code == 204
            asked = made.group(1)
            offered = (await client.post("/v1/episodes")).json()
        assert offered["prompt"]["text"] == made.prompt.text
        async with openai.AsyncOpenAI(base_url=offered["base_url"], api_key=offered["key"], max_retries=0) as client:
            said = [{"role": "user", "content": offered["prompt"]["text"]}]
            await client.chat.completions.create(model="any", messages=said)  # type: ignore[arg-type]
            for body, refused in (({"reward": 1.0}, "no_reward_wanted"), ({"rewrd": 1.0}, "invalid_value")):
                with pytest.raises(openai.BadRequestError) as error:
                    await client.post("/end", body=body, cast_to=object)
                assert error.value.code == refused
            await client.post("/end", body={}, cast_to=object)
        found = await asked
    assert [one.name for one in found.judged.components] == ["exact_match", "turns"]
    assert found.trajectories[0].token_ids.tolist() == list(GUESS)


async def test_agents_that_wait_are_sent_away_when_the_collector_ends() -> None:
    async with httpx.AsyncClient(headers=bearer(Role.AGENT), trust_env=False, timeout=60.0) as client:
        async with outside() as made:
            waiting = asyncio.create_task(client.post(f"{made.address}/v1/episodes", json={"seconds": 50}))
            harness = made.exercise.harness(made.prompt)
            assert isinstance(harness, OutsideHarness)
            await until(lambda: len(harness.desk) == 1)
        assert (await waiting).status_code == 204


async def test_two_agents_play_at_once(tmp_path: Path) -> None:
    meets = (
        "ask()\n"
        f"while len([one for one in os.listdir({str(tmp_path)!r}) if one.startswith('met')]) < 2:\n"
        f"    open({str(tmp_path)!r} + '/met' + str(os.getpid()), 'w').close()\n"
        "call('/end', {'reward': 1.0})"
    )
    async with outside() as made:
        with agent(tmp_path / "a", made.address, meets), agent(tmp_path / "b", made.address, meets):
            found = await made.group(2)
    assert (found.judged.rewards, made.outcomes) == ((1.0, 1.0), {"judged": 2})


@pytest.mark.parametrize(
    ("sent", "environment"),
    [(signal.SIGKILL, {"silent_seconds": 1.0}), (signal.SIGTERM, {"silent_seconds": 600.0})],
)
async def test_the_episode_of_an_agent_that_goes_in_the_middle_is_counted_and_played_by_another(
    sent: signal.Signals, environment: dict[str, float], tmp_path: Path
) -> None:
    file = tmp_path / "pid"
    stuck = f"ask()\nopen({str(file)!r}, 'w').write(str(os.getpid()) + '.')\ntime.sleep(600)"
    async with outside(**environment) as made:
        with agent(tmp_path / "a", made.address, stuck) as going:
            asked = made.group(1)
            while not file.exists() or not file.read_text().endswith("."):  # a machine that runs tests is busy
                await asyncio.sleep(0.01)
            going.send_signal(sent)
            with agent(tmp_path / "b", made.address, PLAYS):
                found = await asked
            await until(lambda: not psutil.pid_exists(int(file.read_text()[:-1])))
    assert (found.judged.rewards, made.outcomes) == ((1.0,), {"lost": 1, "judged": 1})
    assert len(found.trajectories[0].turns) == 1


async def test_agents_that_are_lost_again_and_again_cost_the_group_and_end_no_run() -> None:
    async with (
        outside(silent_seconds=0.05) as made,
        httpx.AsyncClient(base_url=made.address, headers=bearer(Role.AGENT), trust_env=False) as client,
    ):
        asked = made.group(1)
        for _ in range(3):
            assert (await client.post("/v1/episodes")).status_code == 200
        with pytest.raises(UnjudgedError, match="lost again and again: nothing was heard of the agent"):
            await asked
        assert made.outcomes == {"lost": 3}


async def test_evaluations_take_turns_at_the_agents_port_and_a_collector_finds_it_taken() -> None:
    async def second(port: int) -> str:
        async with outside(port=port, split=Split.HELD_OUT) as made:
            return made.address

    async with outside(split=Split.HELD_OUT) as first:
        port = int(first.address.rpartition(":")[2])
        waiting = asyncio.create_task(second(port))
        with pytest.raises(UnavailableError, match="cannot listen"):
            async with outside(port=port):
                pass
        assert not waiting.done()
    assert await waiting == first.address


async def test_a_program_that_fails_at_an_agent_is_one_failure_with_its_reason(tmp_path: Path) -> None:
    async with outside() as made:
        with agent(tmp_path / "a", made.address, "ask()\nprint('no luck')\nsys.exit(3)"):
            found = await made.group(1)
    (failure,) = found.judged.components[0].failures
    assert (found.judged.rewards, failure.outcome) == ((0.0,), "error")
    assert "exit code 3: no luck" in failure.text


async def test_an_agent_plays_over_mutual_tls_by_a_program_that_knows_nothing_of_it(tmp_path: Path) -> None:
    own = {one: str(secrets() / one) for one in ("collector", "agent")}
    async with outside({"tokens": own["collector"], "certificates": own["collector"]}) as made:
        assert made.address.startswith("https://")
        security = {"tokens": own["agent"], "certificates": own["agent"]}
        with agent(tmp_path / "a", made.address, PLAYS, security):
            found = await made.group(1)
    assert found.judged.rewards == (1.0,)


async def test_an_agent_that_the_collector_refuses_ends_and_says_why(tmp_path: Path) -> None:
    other = tmp_path / "tokens"
    other.mkdir(mode=0o700)
    (other / "agent.token").write_bytes((tokens() / "metrics.token").read_bytes())
    (other / "agent.token").chmod(0o600)
    async with outside() as made:
        with agent(tmp_path / "a", made.address, PLAYS, {"tokens": str(other)}, ("ais.cli", "agent")) as refused:
            said, _ = await asyncio.to_thread(refused.communicate)
    assert refused.returncode == EXIT_UNAVAILABLE
    assert "refuses this agent (403): it needs the collector's agent.token" in said
