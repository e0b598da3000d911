"""Who is sent which policy version, in which form, by whom and when. Pure: no I/O, no clock of its own.

Records of the registry, answers of uploads and the time go in; `decide` gives what to do now.

- Only the newest version is sent. A version that is overtaken before its upload begins is skipped.
- A replica is served until it has confirmed the newest version to this trainer: its number and digest count, and its
  answer, not whether the number is larger than before. Each replica has at most one upload under way.
- A replica that serves the base of the delta gets the delta; a newcomer, one that fell behind, and one that has lost
  the base get the whole version. A replica that does not take a quantised form gets BF16.
- Where versions are sent as adapters, a replica gets that of the newest version, whatever it serves. One that cannot
  make the version of it gets deltas and whole versions from then on.
- Up to `fanout` replicas are served by the trainer, each on its own: a straggler delays nobody. A larger fleet passes
  the version on (`push_plan`). The registry tells who has it; the trainer serves whoever has not by the deadline, and
  whoever stood below a replica whose upload failed.
- A replica whose upload failed, or to which nothing was passed on in time, is set aside: the trainer serves it alone,
  beside the others, at each look at the registry.
- A replica that refuses a version for good keeps what it serves until the next version. When every replica refuses
  the newest one, nothing in the run can change that: it is offered again a few times, and then the run should end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ais.contracts.weights.forms import BF16
from ais.contracts.weights.offer import Identity
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.trainer.weights.push_plan import Branch, branches

BASES = 2
"""Versions before the newest whose files are kept for deltas, where replicas serve them."""
OFFERED_AGAIN_SECONDS = 10.0
"""Time from a refusal by every replica to the next offer of the same version."""
_SENT_OTHERWISE = {(409, "base"): "encoding", (415, "encoding"): "encoding", (415, "form"): "form"}
"""Refusals of how a version comes, by status and field, and what must be different for it to be taken."""


@dataclass(frozen=True)
class Limits:
    """What the settings say of pushes; `ais.trainer.settings.PushSettings` explains them."""

    fanout: int
    deadline_seconds: float
    deltas: bool
    refusals: int
    adapters: bool = False
    """Whether versions have adapters, and are sent as such."""


@dataclass(frozen=True)
class Seen:
    """A replica as its record in the registry shows it."""

    name: str
    serving: Identity
    form: str
    """The smallest form that it takes."""


@dataclass(frozen=True, eq=False)
class Push:
    """Decision: bring a version to the root of a branch, which passes it on to those below. Answers name the push."""

    version: Identity
    form: str
    base: Identity | None
    """Send the delta to it if there is one; None: the whole version."""
    branch: Branch
    adapter: bool = False
    """Send the version's adapter if that can be done."""


@dataclass(frozen=True)
class MakeDelta:
    """Decision: begin to compute a delta, which later pushes will ask for."""

    base: Identity
    version: Identity
    form: str


@dataclass(frozen=True)
class Abandon:
    """Decision: end an upload whose replica has left."""

    push: Push


@dataclass(frozen=True)
class SetAside:
    """Told once for each time that a replica is set aside."""

    name: str
    reason: str


@dataclass(frozen=True)
class RefusedByAll:
    """Told each time that every replica has refused the newest version. `final`: it is not offered again."""

    version: Identity
    reasons: dict[str, str]
    """By replica."""
    final: bool


Decision = Push | MakeDelta | Abandon | SetAside | RefusedByAll


@dataclass
class _Replica:
    """What is known of a replica beyond its record, which lags by a heartbeat."""

    seen: Seen
    form: str
    """In which it gets versions."""
    serving: Identity
    """What the registry or the replica itself said last."""
    settled: Identity | None = None
    """Nothing is left to do for this version: it is served, or was refused for good."""
    refusal: str | None = None
    """Why it refused the version that is settled."""
    push: Push | None = None
    """The upload under way."""
    passed: Identity | None = None
    """What another replica is to pass on to it."""
    passed_by: float = math.inf
    """Until when."""
    whole: Identity | None = None
    """This version must come whole."""
    merges: bool = True
    """Whether it makes versions of their adapters, as far as it has said."""
    rests: bool = False
    """Its upload failed: it is left alone until the next look at the registry."""
    set_aside: bool = False

    @property
    def busy(self) -> bool:
        return self.push is not None or self.passed is not None

    def settle(self, version: Identity, refusal: str | None = None) -> None:
        self.settled, self.refusal, self.passed, self.set_aside = version, refusal, None, False


class PushPolicy:
    """The state machine: feed it what happens, then call `decide`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._newest: Identity | None = None
        self._bases: set[Identity] = set()
        self._base: Identity | None = None
        """The base of the delta to the newest version."""
        self._made: set[MakeDelta] = set()
        self._replicas: dict[str, _Replica] = {}
        self._told: list[Decision] = []
        self._refusals = 0
        self._again_at: float | None = None
        """When every replica has refused the newest version: when it is offered again."""

    @property
    def newest(self) -> Identity | None:
        return self._newest

    @property
    def kept(self) -> set[Identity]:
        """Versions whose files are needed, beside those of pushes under way."""
        return self._bases | ({self._newest} if self._newest else set())

    @property
    def live(self) -> int:
        """Replicas in the registry when it was last seen."""
        return len(self._replicas)

    @property
    def set_aside(self) -> int:
        return sum(replica.set_aside for replica in self._replicas.values())

    @property
    def refusals(self) -> int:
        """How often every replica has refused the newest version."""
        return self._refusals

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do for any live replica."""
        return not any(self._needs(replica) for replica in self._replicas.values())

    # What happens.

    def offer(self, version: Identity) -> None:
        """`version` is the newest from now on."""
        if version == self._newest:
            return
        if self._newest is not None:
            self._bases.add(self._newest)
        self._newest, self._base = version, None
        self._refusals, self._again_at = 0, None
        self._made.clear()
        self._forget_bases()

    def look(self, fleet: Iterable[Seen], now: float) -> None:
        """The registry has exactly these replicas."""
        seen = {one.name: one for one in fleet}
        for name in sorted(self._replicas.keys() - seen.keys()):
            if (push := self._replicas.pop(name).push) is not None:
                self._told.append(Abandon(push))
                self._take_back(push)
        for name, one in sorted(seen.items()):
            self._note(self._replicas.setdefault(name, _Replica(one, one.form, one.serving)), one, now)
        self._forget_bases()

    def begun(self, push: Push, now: float) -> None:
        """There is something to send: from now on those below have until the deadline."""
        if self._under_way(push):
            for replica in self._below(push):
                replica.passed_by = now + self._limits.deadline_seconds

    def served(self, push: Push) -> None:
        """The replica has answered that it serves the version."""
        if (replica := self._ended(push)) is not None:
            replica.serving = push.version
            replica.settle(push.version)
            if push.version == self._newest:
                self._refusals, self._again_at = 0, None

    def overtaken(self, push: Push) -> None:
        """A newer version came before this one was taken."""
        if self._ended(push) is not None:
            self._take_back(push)

    def failed(self, push: Push, reason: str) -> None:
        """The upload came to nothing, this time."""
        if (replica := self._ended(push)) is not None:
            self._take_back(push)
            self._put_aside(replica, reason)
            replica.rests = True

    def refused(self, push: Push, error: WeightsRefusedError) -> Literal["otherwise", "superseded", "refused"]:
        """The replica does not take the version: as it was sent, because it follows a newer trainer, or at all."""
        change = _SENT_OTHERWISE.get((error.status, error.field))
        encoded = push.adapter or push.base is not None
        otherwise = (change == "encoding" and encoded) or (change == "form" and push.form != BF16)
        if (replica := self._ended(push)) is not None:
            self._take_back(push)
            if not otherwise:
                replica.settle(push.version, str(error))
            elif change == "form":
                replica.form = BF16
            elif push.adapter:
                replica.merges = False
            else:
                replica.whole = push.version
        if otherwise:
            return "otherwise"
        return "superseded" if (error.status, error.field) == (409, "version") else "refused"

    # What to do.

    def decide(self, now: float) -> list[Decision]:
        """What to begin now, and what to tell, each once."""
        if self._newest is not None:
            self._look_at_refusals(self._newest, now)
            waiting = {
                name: one
                for name, one in sorted(self._replicas.items())
                if self._needs(one) and not one.busy and not one.rests
            }
            self._choose_base(self._newest, waiting)
            self._start(self._newest, waiting)
        told, self._told = self._told, []
        return told

    def _start(self, newest: Identity, waiting: dict[str, _Replica]) -> None:
        if self.live <= self._limits.fanout:
            alone, together = list(waiting), []
        else:
            alone = [name for name, replica in waiting.items() if replica.set_aside]
            together = [name for name in waiting if name not in alone]
        for name in alone:
            self._push(newest, Branch(name, ()))
        # Only replicas that can use the same bytes can pass them on to each other.
        groups: dict[tuple[bool, bool, str], list[str]] = {}
        for name in together:
            one = waiting[name]
            alike = not self._gets_adapter(one), not self._gets_delta(one), self._form(one)
            groups.setdefault(alike, []).append(name)
        for _bytes, group in sorted(groups.items()):
            for branch in branches(group, self._limits.fanout - self._uploads(), self._limits.fanout):
                self._push(newest, branch)

    def _push(self, newest: Identity, branch: Branch) -> None:
        root = self._replicas[branch.root]
        base = self._base if self._gets_delta(root) else None
        root.push = push = Push(newest, self._form(root), base, branch, self._gets_adapter(root))
        for replica in self._below(push):
            replica.passed, replica.passed_by = newest, math.inf
        self._told.append(push)

    def _uploads(self) -> int:
        """Uploads under way that count: those to replicas set aside must not hold up the others."""
        return sum(replica.push is not None and not replica.set_aside for replica in self._replicas.values())

    def _needs(self, replica: _Replica) -> bool:
        return self._newest is not None and replica.settled != self._newest

    def _gets_adapter(self, replica: _Replica) -> bool:
        return self._limits.adapters and replica.merges

    def _form(self, replica: _Replica) -> str:
        return BF16 if self._gets_adapter(replica) else replica.form

    def _gets_delta(self, replica: _Replica) -> bool:
        if self._gets_adapter(replica):
            return False
        base = self._base  # its files have gone when nobody serves it any more
        return base is not None and base in self._bases and replica.serving == base and replica.whole != self._newest

    def _choose_base(self, newest: Identity, waiting: dict[str, _Replica]) -> None:
        """The newest version that a waiting replica serves is what most serve, or soon will."""
        if not self._limits.deltas:
            return
        bases = {one.serving for one in waiting.values() if one.whole != newest and not self._gets_adapter(one)}
        known = bases & self._bases
        if known and (self._base is None or max(known)[0] > self._base[0]):
            self._base = max(known)
        for form in sorted({one.form for one in waiting.values() if self._gets_delta(one)}):
            assert self._base is not None
            if (delta := MakeDelta(self._base, newest, form)) not in self._made:
                self._made.add(delta)
                self._told.append(delta)

    def _look_at_refusals(self, newest: Identity, now: float) -> None:
        replicas = self._replicas
        if not replicas or any(one.settled != newest or one.refusal is None for one in replicas.values()):
            return
        if self._again_at is not None:
            if now >= self._again_at:
                self._again_at = None
                for replica in replicas.values():
                    replica.settled, replica.refusal = None, None
            return
        self._refusals += 1
        final = self._refusals == self._limits.refusals
        self._again_at = math.inf if final else now + OFFERED_AGAIN_SECONDS
        reasons = {name: one.refusal for name, one in sorted(replicas.items()) if one.refusal is not None}
        self._told.append(RefusedByAll(newest, reasons, final))

    # What came of it.

    def _note(self, replica: _Replica, seen: Seen, now: float) -> None:
        if seen.serving != replica.seen.serving:
            replica.serving = seen.serving
        replica.seen = seen
        replica.rests = False
        if replica.passed is None:
            return
        if replica.passed == seen.serving:
            replica.settle(seen.serving)
        elif now > replica.passed_by:
            replica.passed = None
            self._put_aside(replica, "it was not passed the version in time; the trainer sends it")

    def _put_aside(self, replica: _Replica, reason: str) -> None:
        if not replica.set_aside:
            self._told.append(SetAside(replica.seen.name, reason))
        replica.set_aside = True

    def _under_way(self, push: Push) -> bool:
        replica = self._replicas.get(push.branch.root)
        return replica is not None and replica.push is push

    def _ended(self, push: Push) -> _Replica | None:
        """The replica whose push this was; None: it has left meanwhile, and may have come back as another."""
        if not self._under_way(push):
            return None
        replica = self._replicas[push.branch.root]
        replica.push = None
        return replica

    def _below(self, push: Push) -> list[_Replica]:
        return [self._replicas[name] for name in push.branch.below() if name in self._replicas]

    def _take_back(self, push: Push) -> None:
        """Those below get the version from somebody else."""
        for replica in self._below(push):
            if replica.passed == push.version:
                replica.passed = None

    def _forget_bases(self) -> None:
        """Their files go unless a replica serves them, or is about to."""
        replicas = self._replicas.values()
        wanted = {one.serving for one in replicas} | {one.passed for one in replicas if one.passed}
        wanted |= {one.push.version for one in replicas if one.push}
        self._bases = set(sorted((self._bases & wanted) - {self._newest})[-BASES:])
