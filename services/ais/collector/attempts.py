"""How often each group was tried, and what became of it. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class History:
    """What became of an ordinal's groups so far."""

    begun: float | None = None
    """When the first group was started since the last one that was published, Unix time in seconds."""
    attempts: int = 0
    """Groups started. Each has a name of its own, by this number."""
    excused: int = 0
    """Groups whose end says nothing against the prompt: the replica was full, too slow or leaving, or refused what
    another one may take; or the rewards were all equal."""
    failed_on: str | None = None
    """The replica on which the last group came to nothing."""
    redraw: int = 0
    """Groups thrown away because their rewards were all equal, since the last one that was published."""
    unjudged: int = 0
    """Groups with a response that could not be judged, since then."""
    refused_by: dict[str, str] = field(default_factory=dict)
    """Replicas that can never serve this prompt, with their reasons."""

    @property
    def failures(self) -> int:
        """Groups that came to nothing, by failed calls or refusals of the trainer, when none is under way."""
        return self.attempts - self.excused

    def published(self) -> None:
        """A group is in the queue. Should it be discarded there, what follows is what a new collector would do."""
        self.begun = self.failed_on = None
        self.redraw = self.unjudged = 0


class Attempts:
    """The history of every ordinal that the trainer has not trained yet."""

    def __init__(self) -> None:
        self._histories: defaultdict[int, History] = defaultdict(History)

    def __getitem__(self, ordinal: int) -> History:
        return self._histories[ordinal]

    def forget_below(self, ordinal: int) -> None:
        """Drops the ordinals that have been trained."""
        for trained in [known for known in self._histories if known < ordinal]:
            del self._histories[trained]
