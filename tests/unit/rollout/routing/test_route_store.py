"""Routed experts of requests under way: which step's stay where tokens are computed again."""

from __future__ import annotations

import numpy as np

from ais.rollout.engines.vllm_engine.routing.names import RECORDED, own_name
from ais.rollout.engines.vllm_engine.routing.store import PATIENCE_SECONDS, RouteStore

PROMPT = 3


def rows(tokens: int, step: int) -> np.ndarray:
    """[tokens, 2, 1], all of one step's number."""
    return np.full((tokens, 2, 1), step, dtype=np.uint8)


def taken(store: RouteStore, name: str = "a") -> list[int]:
    """The step that each token's are of."""
    routes = store.take(name)
    assert routes is not None
    assert (routes[:, 0] == routes[:, 1]).all()
    return routes[:, 0, 0].tolist()


def sampled(store: RouteStore, tokens: int, first_step: int = 2, name: str = "a") -> None:
    """A prompt, and tokens one by one."""
    store.keep(name, 0, rows(PROMPT, first_step - 1), PROMPT, PROMPT)
    for place in range(tokens - 1):
        store.keep(name, PROMPT + place, rows(1, first_step + place), PROMPT, PROMPT + place + 1)


def test_each_token_has_the_experts_of_its_step() -> None:
    store = RouteStore()
    sampled(store, 4)
    assert taken(store) == [1, 1, 1, 2, 3, 4]
    assert store.take("a") is None


def test_tokens_that_were_sampled_from_keep_theirs_when_they_are_computed_again_and_the_prompt_does_not() -> None:
    """As after a preemption, or with new weights: all six in one step, from whose last one a token is sampled."""
    store = RouteStore()
    sampled(store, 3)
    store.keep("a", 0, rows(PROMPT + 3, 9), PROMPT, PROMPT + 3)
    store.keep("a", PROMPT + 3, rows(1, 10), PROMPT, PROMPT + 4)
    assert taken(store) == [9, 9, 1, 2, 3, 9, 10]


def test_tokens_computed_again_in_parts_keep_theirs_too() -> None:
    store = RouteStore()
    sampled(store, 3)
    store.keep("a", 0, rows(4, 8), PROMPT, PROMPT + 3)
    store.keep("a", 4, rows(2, 9), PROMPT, PROMPT + 3)
    assert taken(store) == [8, 8, 1, 2, 3, 9]


def test_what_nobody_takes_is_forgotten() -> None:
    store = RouteStore()
    sampled(store, 1)
    sampled(store, 1, name="b")
    store.end(["a", "unknown"], now=0.0)
    store.end([], now=PATIENCE_SECONDS)
    assert len(store) == 2
    store.end([], now=PATIENCE_SECONDS + 1)
    assert store.take("a") is None
    assert taken(store, "b") == [1, 1, 1]
    assert len(store) == 0


def test_the_name_that_the_engine_gave_is_found_again_with_or_without_what_vllm_put_behind_it() -> None:
    assert own_name(f"{RECORDED}12-ab34cd56") == own_name(f"{RECORDED}12") == f"{RECORDED}12"
