"""Adaptive importance sampling between the policy that sampled and the policy that trains.

Needs torch and the standard library, nothing else. The names below are loaded on first use, so that `import ais_core`
and `import ais_core.settings` stay free of torch: a process that only reads settings does not pay for tensors.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ais_core.corrections import Correction, build
    from ais_core.diagnostics import Diagnostics, summarize
    from ais_core.errors import AISError, NonFiniteError, SettingError, ShapeError, StateError
    from ais_core.plan import Plan
    from ais_core.ratios import SequenceBatch, log_ratio
    from ais_core.settings import CorrectionSettings, MixingSettings, RejectionSettings

_HOME = {
    "AISError": "errors",
    "Correction": "corrections",
    "CorrectionSettings": "settings",
    "Diagnostics": "diagnostics",
    "MixingSettings": "settings",
    "NonFiniteError": "errors",
    "Plan": "plan",
    "RejectionSettings": "settings",
    "SequenceBatch": "ratios",
    "SettingError": "errors",
    "ShapeError": "errors",
    "StateError": "errors",
    "build": "corrections",
    "log_ratio": "ratios",
    "summarize": "diagnostics",
}

__all__ = [
    "AISError",
    "Correction",
    "CorrectionSettings",
    "Diagnostics",
    "MixingSettings",
    "NonFiniteError",
    "Plan",
    "RejectionSettings",
    "SequenceBatch",
    "SettingError",
    "ShapeError",
    "StateError",
    "build",
    "log_ratio",
    "summarize",
]


def __getattr__(name: str) -> object:
    """Load a public name, or a submodule, on first use (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(f"ais_core.{_HOME[name]}"), name)
    if name in _SUBMODULES:
        return import_module(f"ais_core.{name}")
    raise AttributeError(f"module 'ais_core' has no attribute {name!r}")


_SUBMODULES = frozenset({"advantages", "corrections", "diagnostics", "mixing", "numerics", "objectives", "ratios"})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
