"""Where the mismatch of a number format comes from: its parts are switched on one after another. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ais.contracts.sampling import Precision

Overrides = dict[str, str]
"""Settings of [rollout.precision]."""

KERNELS = "kernels"
"""BF16 on both sides: what kernels and the order of additions make of the same numbers."""


class NothingToExplainError(ValueError):
    """The precision has no parts."""


def stages(precision: Precision) -> dict[str, Overrides]:
    """From BF16 to `precision`, each with one part more than the one before, by the name of that part.

    Activations are rounded where weights are, so weights come first. Raises NothingToExplainError for BF16.
    """
    if precision.weights == precision.kv_cache == "bf16":
        raise NothingToExplainError("rollout.precision is bf16: set the precision whose parts you want to know")
    now = Precision(weights="bf16", activations="bf16", float32_head=precision.float32_head)
    found = {KERNELS: _overrides(now)}
    for part, fields in (
        ("weights", ("weights", "granularity", "scales")),
        ("activations", ("activations",)),
        ("kv_cache", ("kv_cache", "kv_scale")),
        ("head", ("head",)),
    ):
        changed = now.model_copy(update={field: getattr(precision, field) for field in fields})
        if _computes(changed) != _computes(now):
            found[part] = _overrides(changed)
        now = changed
    return found


def shares(k3: Mapping[str, float]) -> dict[str, float]:
    """What each stage adds to the last one's k3, as a share of it; they add up to 1, and one may be negative.

    k3 is half the mean square of small log-ratios, and squares of independent errors add up, as their means do not.
    """
    values = list(k3.values())
    before = [0.0, *values[:-1]]
    return {name: (value - last) / values[-1] for name, value, last in zip(k3, values, before, strict=True)}


def _computes(precision: Precision) -> Precision:
    """Without what has no effect."""
    if precision.weights != "bf16":
        return precision
    kept = precision.model_dump(include={"kv_cache", "kv_scale", "float32_head"})
    return Precision(weights="bf16", **kept)


def _overrides(precision: Precision) -> Overrides:
    return {name: str(value).lower() for name, value in precision.model_dump().items()}
