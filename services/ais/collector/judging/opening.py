"""From the settings to who judges responses and runs environments: worker processes, services, and this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from ais.collector.judging.harness.desk import Desk
from ais.collector.judging.harness.endpoint import Endpoint, open_endpoint
from ais.collector.judging.harness.host import Harness, check_command
from ais.collector.judging.harness.outside import Entrance, OutsideHarness, open_outside
from ais.collector.judging.hosts import Host, RetryHost, WorkerHost
from ais.collector.judging.judge import Judge, JudgeComponent, Panel, judge_here
from ais.collector.judging.judgement import Judgement, Observe, unobserved
from ais.collector.judging.pool import JudgePool
from ais.collector.judging.service import ObserveCall, ServiceClient, call_unobserved
from ais.collector.judging.verifiers_package import VerifiersHarness
from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.opening import is_quick, open_verifier
from ais.collector.rewards.response import Response
from ais.collector.settings import CollectorSettings
from ais.collector.settings.environments import EnvironmentSettings
from ais.collector.settings.rewards import Component, Service


@dataclass(frozen=True)
class Judging:
    """Who judges, and by source of the prompts who runs environments and programs."""

    judge: Panel
    hosts: Mapping[str, Host]
    harnesses: Mapping[str, Harness]


@asynccontextmanager
async def open_judging(
    settings: CollectorSettings,
    observe: Observe = unobserved,
    observe_call: ObserveCall = call_unobserved,
    use_proxy: bool = False,
    entrance: Callable[[], Entrance] | None = None,
) -> AsyncIterator[Judging]:
    """Who judges while the context is open. `entrance`: how agents elsewhere come in, where an
    environment has some.

    Raises TaskError or UnavailableError for a verifier or an environment that cannot be used, and UnavailableError when
    no worker starts.
    """
    sources = {source.effective_label: source for source in settings.task.each_source}
    slow = {
        (name, index): (component, source.datasets)
        for name, source in sources.items()
        for index, component in enumerate(source.effective_reward)
        if not is_quick(component) and not isinstance(component, Service)
    }
    environments = {name: one for name, source in sources.items() if (one := source.effective_environment) is not None}
    programs = {name: one for name, one in environments.items() if one.by_programs}
    acted_in = {name: one for name, one in environments.items() if name not in programs}
    in_workers = {name: one for name, one in acted_in.items() if one.judges}
    for environment in programs.values():
        if environment.name == "harness":
            check_command(environment.command, environment.directory)
    on_failure = settings.judging.on_failure
    async with AsyncExitStack() as stack:
        pool = (
            await stack.enter_async_context(JudgePool(slow, settings.judging, observe, in_workers))
            if slow or in_workers
            else None
        )

        async def opened(name: str, index: int, component: Component) -> JudgeComponent:
            if isinstance(component, Service):
                client = ServiceClient(component, use_proxy, observe, observe_call)
                return (await stack.enter_async_context(client)).judge
            if pool is not None and (name, index) in slow:
                return _in_workers(pool, (name, index))
            return judge_here(component.label, open_verifier(component), observe)

        components = {
            name: [(one, await opened(name, index, one)) for index, one in enumerate(source.effective_reward)]
            for name, source in sources.items()
        }
        panel = Panel(components, on_failure)

        def host(name: str, environment: EnvironmentSettings) -> Host:
            if name in in_workers:
                assert pool is not None
                return WorkerHost(name, environment, pool, on_failure)
            return RetryHost(environment, panel)

        harnesses = dict[str, Harness]()
        here = {name: one for name, one in programs.items() if not one.plays_elsewhere}
        if here:
            endpoint, address = await stack.enter_async_context(open_endpoint())
            for name, one in here.items():
                free = asyncio.Semaphore(one.programs)
                kind = VerifiersHarness if one.name == "verifiers" else Harness
                harnesses[name] = kind(one, endpoint, address, on_failure, observe, free)
                stack.push_async_callback(harnesses[name].end)
        if elsewhere := {name: one for name, one in programs.items() if one.plays_elsewhere}:
            assert entrance is not None, "agents come in by a door"
            endpoint, desk = Endpoint(), Desk()
            listening = open_outside(settings.agents_host, settings.agents_port, entrance(), endpoint, desk)
            address = await stack.enter_async_context(listening)
            for name, one in elsewhere.items():
                free = asyncio.Semaphore(one.programs)
                harnesses[name] = OutsideHarness(one, endpoint, address, on_failure, observe, free, desk=desk)
        yield Judging(panel, {name: host(name, one) for name, one in acted_in.items()}, harnesses)


@asynccontextmanager
async def open_judge(
    settings: CollectorSettings,
    observe: Observe = unobserved,
    observe_call: ObserveCall = call_unobserved,
    use_proxy: bool = False,
) -> AsyncIterator[Judge]:
    """Who judges single responses. Raises as `open_judging`."""
    async with open_judging(settings, observe, observe_call, use_proxy) as judging:
        yield judging.judge


def _in_workers(pool: JudgePool, place: tuple[str, int]) -> JudgeComponent:
    async def judge(prompt: Prompt, responses: Sequence[Response]) -> list[Judgement]:
        return list(await asyncio.gather(*(pool.judge(place, prompt, response) for response in responses)))

    return judge
