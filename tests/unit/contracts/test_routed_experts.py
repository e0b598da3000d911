"""The experts that read each token, on the wire; and how a mixture routes, by its config."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.contracts.routing.routed import RoutedExperts
from ais.contracts.routing.shape import RoutingShape, id_dtype, read_routing_shape, routing_shape
from ais.contracts.trajectory import (
    MalformedRecordError,
    Trajectory,
    TrajectoryBounds,
    decode_group,
    decode_trajectory,
    encode_group,
    encode_trajectory,
)
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.runtime.settings import SettingsError
from tests.support.records import trajectory_of
from tests.support.trainer_groups import make_group

BOUNDS = TrajectoryBounds(20)


def routed(tokens: int, layers: int = 2, chosen: int = 2, experts: int = 4, seed: int = 0) -> RoutedExperts:
    """Random ones."""
    random = np.random.default_rng(seed)
    ids = np.array([random.permutation(experts)[:chosen] for _ in range(tokens * layers)], dtype=id_dtype(experts))
    return RoutedExperts(ids.reshape(tokens, layers, chosen), experts)


@st.composite
def mixed(draw: st.DrawFn) -> Trajectory:
    """A response to a prompt of one token or more, with its experts."""
    tokens, prompt = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    experts = draw(st.sampled_from([1, 2, 8, 256, 257, 1000]))
    chosen = draw(st.integers(1, min(experts, 3)))
    told = routed(prompt + tokens - 1, draw(st.integers(1, 3)), chosen, experts, draw(st.integers(0, 99)))
    return trajectory_of([1] * tokens, routed=told)


@given(mixed())
def test_they_come_back_as_they_were(trajectory: Trajectory) -> None:
    read = decode_trajectory(encode_trajectory(trajectory), BOUNDS).routed
    assert read is not None
    assert trajectory.routed is not None
    assert read.experts == trajectory.routed.experts
    assert read.expert_ids.dtype == trajectory.routed.expert_ids.dtype
    assert np.array_equal(read.expert_ids, trajectory.routed.expert_ids)


SPOILED: dict[str, tuple[Callable[[pb.RoutedExperts], None], str]] = {
    "no layers": (lambda told: setattr(told, "layers", 0), "layers"),
    "more layers than there are": (lambda told: setattr(told, "layers", 5000), "layers"),
    "no experts": (lambda told: setattr(told, "experts", 0), "experts"),
    "more experts than there are": (lambda told: setattr(told, "experts", 1 << 20), "experts"),
    "none for a token": (lambda told: setattr(told, "experts_per_token", 0), "experts_per_token"),
    "more for a token than there are": (lambda told: setattr(told, "experts_per_token", 5), "experts_per_token"),
    "a byte is missing": (lambda told: setattr(told, "expert_ids", told.expert_ids[:-1]), "expert_ids"),
    "a sampled token is missing": (lambda told: setattr(told, "expert_ids", told.expert_ids[:4]), "expert_ids"),
    "nothing": (lambda told: setattr(told, "expert_ids", b""), "expert_ids"),
    "an expert that there is not": (lambda told: setattr(told, "expert_ids", b"\0\1\0\4" * 2), "expert_ids"),
    "one twice": (lambda told: setattr(told, "expert_ids", b"\0\1\3\3" * 2), "expert_ids"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_cannot_be_is_refused_by_its_field(name: str) -> None:
    message = encode_trajectory(trajectory_of([1, 2, 3], routed=routed(2)))
    spoil, field = SPOILED[name]
    spoil(message.routed)
    with pytest.raises(MalformedRecordError) as error:
        decode_trajectory(message, BOUNDS)
    assert error.value.field == f"trajectory.routed.{field}"


def test_a_group_with_them_is_refused_by_earlier_releases_and_when_they_are_not_of_all_that_was_read() -> None:
    group = make_group(0, samples=1)
    (one,) = group.trajectories
    read = len(group.prompt_token_ids) + len(one.token_ids) - 1
    payload = encode_group(replace(group, trajectories=(replace(one, routed=routed(read)),)))
    assert pb.ScoredGroup.FromString(payload).schema_version == 5
    (again,) = decode_group(payload, BOUNDS).trajectories
    assert again.routed is not None
    assert len(again.routed) == read
    for tokens in (read - 1, read + 1):
        with pytest.raises(MalformedRecordError) as error:
            decode_group(encode_group(replace(group, trajectories=(replace(one, routed=routed(tokens)),))), BOUNDS)
        assert error.value.field == "trajectories[0].routed.expert_ids"


def test_a_token_costs_a_byte_for_each_of_its_experts() -> None:
    plain, told = trajectory_of([1] * 256), trajectory_of([1] * 256, routed=routed(256, 48, 8, 128))
    sizes = [len(encode_trajectory(one).SerializeToString()) for one in (plain, told)]
    assert 256 * 384 <= sizes[1] - sizes[0] <= 256 * 384 + 16


QWEN = {"model_type": "qwen3_moe", "num_hidden_layers": 5, "num_experts": 128, "num_experts_per_tok": 8}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (QWEN, RoutingShape((0, 1, 2, 3, 4), 128, 8)),
        (QWEN | {"mlp_only_layers": [1], "decoder_sparse_step": 2}, RoutingShape((3,), 128, 8)),
        (QWEN | {"num_local_experts": 300}, RoutingShape((0, 1, 2, 3, 4), 300, 8)),
        (QWEN | {"mlp_only_layers": [0, 1, 2, 3, 4]}, None),
        (QWEN | {"model_type": "gpt_oss", "num_local_experts": 32}, RoutingShape((0, 1, 2, 3, 4), 32, 8)),
        (QWEN | {"model_type": "mixtral"}, None),
        ({"model_type": "qwen3"}, None),
    ],
)
def test_how_a_mixture_routes_is_read_from_its_config(config: dict[str, object], expected: RoutingShape | None) -> None:
    assert routing_shape(config) == expected


@pytest.mark.parametrize("config", [{"model_type": "qwen3"}, {"model_type": "gpt_oss"}, [], "{"])
def test_a_model_whose_routing_is_not_known_is_refused(config: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"run\.routing_replay"):
        read_routing_shape(tmp_path)
