"""Settings of the trainer from the names of single fields, whichever section each belongs to."""

from __future__ import annotations

from typing import Any

from ais.trainer.settings import TrainerSettings


def nested(**fields: Any) -> dict[str, Any]:
    """The fields as the tree of [trainer]: `learning_rate=1.0` becomes {"optimizer": {"learning_rate": 1.0}}."""
    homes = {
        name: section
        for section, field in TrainerSettings.model_fields.items()
        for name in getattr(field.annotation, "model_fields", {})
    }
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        (tree.setdefault(homes[name], {}) if name in homes else tree)[name] = value
    return tree


def trainer_settings(**fields: Any) -> TrainerSettings:
    return TrainerSettings.model_validate(nested(**fields))
