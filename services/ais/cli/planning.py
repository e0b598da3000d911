"""`ais plan`: how large a run has to be."""

from __future__ import annotations

from typing import Annotated

import typer

from ais.cli.options import fail
from ais.runtime.exits import EXIT_SETTINGS


def plan(
    model: Annotated[str, typer.Option(help="0.6b, 4b, 8b or 70b.")] = "8b",
    gpu: Annotated[str, typer.Option(help="h100 or h200.")] = "h100",
    prompt: Annotated[int, typer.Option(min=1, max=1 << 24, help="Tokens of a prompt.")] = 512,
    response: Annotated[int, typer.Option(min=1, max=1 << 24, help="Tokens of a response, on average.")] = 2048,
    longest: Annotated[int, typer.Option(min=1, max=1 << 24, help="Tokens of the longest response.")] = 8192,
    groups: Annotated[int, typer.Option(min=1, max=1 << 24, help="run.groups_per_batch.")] = 64,
    samples: Annotated[int, typer.Option(min=1, max=1 << 16, help="run.samples_per_group.")] = 8,
    staleness: Annotated[int, typer.Option(min=0, max=1000, help="run.max_staleness.")] = 1,
    trainer_gpus: Annotated[int, typer.Option(min=1, max=1 << 20, help="Ranks of the trainer.")] = 8,
    replicas: Annotated[
        int, typer.Option(min=0, max=1 << 20, help="0: as many as keep the trainer busy.", show_default=True)
    ] = 0,
    replica_gpus: Annotated[int, typer.Option(min=1, max=16, help="GPUs of one replica.")] = 1,
    slots: Annotated[int, typer.Option(min=1, max=1 << 16, help="rollout.slots; fewer where memory is short.")] = 256,
    gbit: Annotated[float, typer.Option(min=0.001, max=1e5, help="Link of each machine, Gbit/s.")] = 100.0,
    fanout: Annotated[int, typer.Option(min=2, max=64, help="trainer.push.fanout.")] = 8,
    deltas: Annotated[bool, typer.Option(help="trainer.push.deltas.")] = True,
    pass_tokens: Annotated[int, typer.Option(min=1, max=1 << 24, help="trainer.compute.tokens_per_microbatch.")] = 8192,
    utilisation: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the BF16 rate that training reaches. 0: as measured.")
    ] = 0.0,
    table: Annotated[bool, typer.Option("--table", help="1 to 4,096 replicas, as in docs/scale.md.")] = False,
) -> None:
    """Say how large a run has to be, from rates that were measured: replicas, memory, links, Redis, time of a step.

    Every assumption is printed with its source; docs/scale.md says how far off it was where a record can be compared.

        ais plan --model 8b --gpu h100 --trainer-gpus 8
        ais plan --model 70b --replica-gpus 4 --trainer-gpus 64 --gbit 400
    """
    from ais.planning.rates import GPUS
    from ais.planning.shapes import MODELS
    from ais.planning.sizing import Job
    from ais.planning.sizing import plan as make
    from ais.planning.telling import lines
    from ais.planning.telling import table as rows

    for name, value, known in (("model", model, MODELS), ("gpu", gpu, GPUS)):
        if value not in known:
            fail(f"--{name} {value}: expected one of {', '.join(known)}", EXIT_SETTINGS)
    if longest < response:
        fail(f"--longest {longest}: expected at least --response {response}", EXIT_SETTINGS)
    job = Job(
        MODELS[model], GPUS[gpu], prompt, response, longest, groups, samples, staleness, trainer_gpus, replicas or None,
        replica_gpus, slots, gbit * 1e9 / 8, fanout, deltas, pass_tokens, utilisation or None,
    )  # fmt: skip
    try:
        print("\n".join(rows(job) if table else lines(job, make(job))))
    except ValueError as error:
        fail(f"{error} (--replica-gpus)", EXIT_SETTINGS)
