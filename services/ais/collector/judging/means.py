"""Mean scores of the named components of a reward, for metrics: never more names than the settings allow."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from statistics import fmean

from ais.collector.judging.judgement import MOST_PARTS
from ais.contracts.reward_components import RewardComponent


class ComponentNames:
    """The names that metrics may have: those in the settings, and up to `MOST_PARTS` parts of each, first come first
    served. A function that invents names without end adds no more."""

    def __init__(self, labels: Iterable[str]) -> None:
        self._labels = frozenset(labels)
        self._parts: set[str] = set()
        self._counts: Counter[str] = Counter()

    def admits(self, name: str) -> bool:
        label = name.partition(".")[0]
        if name in self._labels or name in self._parts:
            return True
        if label not in self._labels or self._counts[label] >= MOST_PARTS:
            return False
        self._parts.add(name)
        self._counts[label] += 1
        return True


class ComponentMeans:
    """Means over the newest groups that have a component."""

    def __init__(self, names: ComponentNames, groups: int) -> None:
        """`groups`: how many of them count."""
        self._names = names
        self._groups = groups
        self._recent: dict[str, deque[float]] = {}

    def take(self, components: Iterable[RewardComponent]) -> Mapping[str, float]:
        """Takes in a group. Gives the means of the components that it has."""
        means = {}
        for component in components:
            if self._names.admits(component.name):
                recent = self._recent.setdefault(component.name, deque(maxlen=self._groups))
                recent.append(fmean(component.scores))
                means[component.name] = fmean(recent)
        return means
