"""Which form of a version a precision takes, and what the form's files hold."""

from __future__ import annotations

import pytest

from ais.contracts.sampling import Precision
from ais.contracts.weights.forms import BF16, Kind, form_of_precision, stored

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("precision", "form"),
    [
        ({"weights": "e4m3"}, "e4m3"),
        ({"weights": "e5m2", "activations": "bf16", "kv_cache": "e4m3"}, "e5m2"),
        ({"weights": "e4m3", "head": True}, "e4m3+head"),
        ({"weights": "e4m3", "granularity": "tensor"}, BF16),
        ({"weights": "e4m3", "granularity": "block"}, BF16),
        ({"weights": "e4m3", "scales": "least_squares"}, BF16),
        ({"weights": "int8"}, BF16),
        ({"weights": "bf16"}, BF16),
    ],
)
def test_a_precision_takes_codes_only_where_every_replica_of_it_would_make_the_same(
    precision: dict[str, object], form: str
) -> None:
    assert form_of_precision(Precision.model_validate(precision)) == form


def test_linear_weights_are_codes_and_scales_and_everything_else_stays_as_it_is() -> None:
    assert stored(UP, (8, 4), "e5m2") == {UP: Kind("F8_E5M2", (8, 4)), f"{UP}_scale": Kind("F32", (8, 1))}
    for name in (UP, "lm_head.weight"):
        assert stored(name, (8, 4), BF16) == {name: Kind("BF16", (8, 4))}
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_norm.weight", "lm_head.weight"):
        assert stored(name, (8, 4), "e4m3") == {name: Kind("BF16", (8, 4))}
    assert set(stored("lm_head.weight", (8, 4), "e4m3+head")) == {"lm_head.weight", "lm_head.weight_scale"}
