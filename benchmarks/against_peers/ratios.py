"""From what was measured to figures and lines of a table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.against_peers.course import Course
from benchmarks.support.report import Figure, figure, spread

PEERS = ("trl", "trl_float32")


def training_figures(courses: Mapping[str, Sequence[Course]], reward: float | None) -> dict[str, Figure]:
    """Seconds and processor seconds of a step, steps and seconds to the reward, by contender: medians of the rounds.

    The ratio is that to the peer whose step takes the least time, below 1 where we are faster. What a contender reached
    in no round is left out, and what in some is a median of those, whose number is told; without a reward only steps
    are timed.
    """
    measured: dict[str, dict[str, list[float]]] = {}
    for contender, made in courses.items():
        measured[contender] = {
            "step": [one.step_seconds for one in made],
            "step_processor": [one.processor_seconds for one in made],
        }
        if reward is not None:
            measured[contender] |= {
                "steps_to_reward": [float(steps) for one in made if (steps := one.steps_to(reward)) is not None],
                "seconds_to_reward": [seconds for one in made if (seconds := one.seconds_to(reward)) is not None],
            }
    peers = {name: kinds for name, kinds in measured.items() if name in PEERS}
    peer = min(peers.values(), key=lambda kinds: median(kinds["step"]), default={})
    found: dict[str, Figure] = {}
    for contender, kinds in measured.items():
        for kind, values in kinds.items():
            if not values:
                continue
            if kind == "seconds_to_reward" and len(values) < len(courses[contender]):
                found[f"{contender}_rounds_to_reward"] = figure(len(values), "rounds", len(courses[contender]))
            unit = "steps" if kind.startswith("steps") else "s"
            reference = spread(peer[kind], unit)["value"] if contender not in PEERS and peer.get(kind) else None
            found[f"{contender}_{kind}"] = spread(values, unit, None if reference is None else float(reference))
    return found


def correction_figures(measured: Mapping[str, Mapping[str, float | str | None]]) -> dict[str, Figure]:
    """Time and memory of the correction from what `ais bench correction` found, with the peer's as the reference.

    Where verl's helper is not there the reference is the eager metrics of that benchmark, and the names say so.
    """
    found: dict[str, Figure] = {}
    by_verl = measured["padded_time"]["reference"] is not None
    kinds = ("padded", "packed") if by_verl else ("sequence",)
    for kind in kinds:
        for what in ("time", "peak_memory"):
            one = measured[f"{kind}_{what}"]
            value, reference = one["value"], one["reference"]
            name = f"correction_{kind}_{what}" if by_verl else f"correction_packed_{what}_against_eager_metrics"
            found[name] = figure(float(value or 0.0), str(one["unit"]), None if reference is None else float(reference))
    return found


def lines_of(figures: Mapping[str, Figure]) -> list[tuple[str, str, str]]:
    """Rows of a table: what, median with its spread, and how many times less that is than the peer's."""
    rows = []
    for name, one in figures.items():
        value = f"{one['value']:.3g} {one['unit']}"
        if "lowest" in one:
            value += f" ({one['lowest']:.3g} to {one['highest']:.3g})"
        times = f"{1 / float(one['ratio']):.2f}" if one["ratio"] else ""
        rows.append((name.replace("_", " "), value, times))
    return rows
