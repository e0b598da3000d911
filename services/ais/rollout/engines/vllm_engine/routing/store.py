"""Routed experts of requests under way, position by position, while their steps come in any order.

A token's experts are those of the step that sampled the token after it: that is how its log-prob came about. When a
later step computes it again, after a preemption or with new weights, only tokens further on see the difference, and the
first ones stay. Of the prompt, which predicts nothing, the last ones stay.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

PATIENCE_SECONDS = 60.0
"""What is not taken so long after its request has ended is of a call that was given up."""


class RouteStore:
    """Arrays [tokens, layers, k] by the names of requests."""

    def __init__(self) -> None:
        self._routes: dict[str, np.ndarray] = {}
        """Each with room for more tokens."""
        self._lengths: dict[str, int] = {}
        self._ended: dict[str, float] = {}
        """When those have ended that were not taken."""

    def __len__(self) -> int:
        return len(self._routes)

    def keep(self, name: str, begin: int, rows: np.ndarray, prompt: int, known: int) -> None:
        """A step has computed the request's tokens from `begin` on, and sent them to `rows` [n, layers, k]. It has
        `prompt` tokens in its prompt, and `known` ones with those sampled before this step."""
        end = begin + len(rows)
        routes = self._routes.get(name)
        if routes is None or len(routes) < end:
            larger = np.zeros((2 * end, *rows.shape[1:]), dtype=rows.dtype)
            if routes is not None:
                larger[: len(routes)] = routes
            self._routes[name] = routes = larger
        places = np.arange(begin, end)
        new = (places < prompt - 1) | (places >= known - 1)
        routes[places[new]] = rows[new]
        self._lengths[name] = max(end, self._lengths.get(name, 0))

    def take(self, name: str) -> np.ndarray | None:
        """Those of all tokens that were computed of a request, which is forgotten; None where it is not known."""
        self._ended.pop(name, None)
        routes = self._routes.pop(name, None)
        return None if routes is None else routes[: self._lengths.pop(name)]

    def end(self, names: Iterable[str], now: float) -> None:
        """These requests have ended, `now` by a clock in seconds. Forgets what has waited too long to be taken."""
        for name in names:
            if name in self._routes:
                self._ended[name] = now
        for name in [name for name, ended in self._ended.items() if now - ended > PATIENCE_SECONDS]:
            self.take(name)
