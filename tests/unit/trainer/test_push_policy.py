"""Every replica gets the newest version, whatever fails and in whatever order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ais.contracts.weights.offer import Identity
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.trainer.weights.push_plan import Branch
from ais.trainer.weights.push_policy import (
    OFFERED_AGAIN_SECONDS,
    Abandon,
    Limits,
    MakeDelta,
    Push,
    PushPolicy,
    RefusedByAll,
    Seen,
    SetAside,
)

DEADLINE = 5.0
TENSOR, BASE, FORM, NEWER = (
    WeightsRefusedError("a.weight", "not finite"),
    WeightsRefusedError("base", "not here", 409),
    WeightsRefusedError("form", "unknown", 415),
    WeightsRefusedError("version", "follows a newer trainer", 409),
)


def identity(version: int) -> Identity:
    return version, f"blake3:{version}"


def policy_of(fanout: int = 8, deltas: bool = True, refusals: int = 3, adapters: bool = False) -> PushPolicy:
    return PushPolicy(Limits(fanout, DEADLINE, deltas, refusals, adapters))


def pushes(policy: PushPolicy, now: float = 0.0) -> list[Push]:
    return [decision for decision in policy.decide(now) if isinstance(decision, Push)]


def fleet(*names: str, version: int = 0, form: str = "bf16") -> list[Seen]:
    return [Seen(name, identity(version), form) for name in names]


def test_a_larger_fleet_than_the_fanout_gets_the_version_by_a_tree() -> None:
    policy = policy_of(fanout=2)
    policy.offer(identity(1))
    policy.look(fleet(*"abcde"), 0.0)
    begun = pushes(policy)
    assert [push.branch for push in begun] == [
        Branch("a", (Branch("c", ()), Branch("e", ()))),
        Branch("b", (Branch("d", ()),)),
    ]


def test_replicas_that_need_other_bytes_are_in_other_trees() -> None:
    policy = policy_of(fanout=3)
    policy.offer(identity(1))
    policy.look([*fleet("a", "b"), *fleet("c", "d", version=1)], 0.0)
    policy.offer(identity(2))
    assert [(push.base, push.branch) for push in pushes(policy)] == [
        (identity(1), Branch("c", ())),
        (identity(1), Branch("d", ())),
        (None, Branch("a", (Branch("b", ()),))),
    ]


def test_a_delta_is_made_once_for_each_form_and_asked_for_by_those_that_serve_its_base() -> None:
    policy = policy_of()
    policy.offer(identity(1))
    policy.look([*fleet("a", "b", version=1), *fleet("c", version=1, form="e4m3"), *fleet("d")], 0.0)
    for push in pushes(policy):
        policy.served(push)
    policy.offer(identity(2))
    decisions = policy.decide(0.0)
    made = [one for one in decisions if isinstance(one, MakeDelta)]
    assert made == [MakeDelta(identity(1), identity(2), form) for form in ("bf16", "e4m3")]
    assert {push.base for push in decisions if isinstance(push, Push)} == {identity(1)}


def test_where_versions_have_adapters_these_are_sent_whatever_a_replica_serves() -> None:
    policy = policy_of(fanout=2, adapters=True)
    policy.offer(identity(1))
    policy.look([*fleet("a", version=1), *fleet("b", "c"), *fleet("d", form="e4m3")], 0.0)
    policy.offer(identity(2))
    decisions = policy.decide(0.0)
    assert [(push.adapter, push.form, push.base) for push in decisions if isinstance(push, Push)] == [
        (True, "bf16", None),
        (True, "bf16", None),
    ]
    assert not [one for one in decisions if isinstance(one, MakeDelta)]


def test_who_cannot_merge_an_adapter_gets_merged_versions_from_then_on() -> None:
    policy = policy_of(adapters=True)
    policy.offer(identity(1))
    policy.look(fleet("a", form="e4m3"), 0.0)
    ways = []
    for version, refusal in ((1, BASE), (1, None), (2, None)):
        policy.offer(identity(version))
        (push,) = pushes(policy)
        ways.append((push.adapter, push.form, push.base))
        if refusal is None:
            policy.served(push)
        else:
            assert policy.refused(push, refusal) == "otherwise"
    assert ways == [(True, "bf16", None), (False, "e4m3", None), (False, "e4m3", identity(1))]


def test_a_version_that_every_replica_refuses_is_offered_again_and_then_given_up() -> None:
    policy = policy_of(refusals=3)
    policy.offer(identity(1))
    policy.look(fleet("a", "b"), 0.0)
    told: list[bool] = []
    for attempt in range(4):
        now = attempt * OFFERED_AGAIN_SECONDS
        for push in pushes(policy, now):
            policy.refused(push, TENSOR)
        told += [one.final for one in policy.decide(now) if isinstance(one, RefusedByAll)]
    assert told == [False, False, True]
    assert policy.settled


def test_one_replica_that_takes_the_version_is_enough_to_go_on() -> None:
    policy = policy_of()
    policy.offer(identity(1))
    policy.look(fleet("a", "b"), 0.0)
    first, second = pushes(policy)
    policy.refused(first, TENSOR)
    policy.served(second)
    assert policy.decide(1e9) == []
    assert policy.refusals == 0


def test_answers_to_an_upload_of_a_replica_that_left_and_came_back_are_not_taken_for_its_own() -> None:
    policy = policy_of()
    policy.offer(identity(1))
    policy.look(fleet("a"), 0.0)
    (old,) = pushes(policy)
    policy.look([], 0.0)
    policy.look(fleet("a"), 0.0)
    abandoned, new = policy.decide(0.0)
    assert abandoned == Abandon(old)
    policy.served(old)
    assert not policy.settled
    assert isinstance(new, Push)
    policy.served(new)
    assert policy.settled


def test_a_base_whose_files_have_gone_is_asked_of_nobody_again() -> None:
    policy = policy_of()
    policy.offer(identity(1))
    policy.look(fleet("a", version=1), 0.0)
    (push,) = pushes(policy)
    policy.served(push)
    policy.offer(identity(2))
    (push,) = pushes(policy)
    assert push.base == identity(1)
    policy.served(push)
    policy.look(fleet("a", version=2), 0.0)
    assert policy.kept == {identity(2)}
    policy.look([*fleet("a", version=2), *fleet("b", version=1)], 0.0)
    (push,) = pushes(policy)
    assert push.base is None


@dataclass
class Peer:
    """What the test knows of a replica."""

    form: str
    serving: Identity
    """Really."""
    recorded: Identity
    """What its record says when it is read next."""
    seen: Identity
    """What its record said when it was read last."""
    believed: Identity
    """What the trainer was told last, by record or answer."""
    confirmed: Identity | None = None
    refused: Identity | None = None
    refused_otherwise: set[tuple[Identity, str]] = field(default_factory=set)
    merges: bool = True
    """It has refused no adapter."""
    aside: bool = False
    rests: bool = False
    expects: Identity | None = None
    expects_until: float = math.inf

    def done(self, version: Identity | None) -> bool:
        return version in (self.confirmed, self.refused)


class AnyOrder(RuleBasedStateMachine):
    """Versions, replicas, records and answers in any order."""

    @initialize(fanout=st.integers(1, 3), deltas=st.booleans(), refusals=st.integers(1, 3), adapters=st.booleans())
    def begin(self, fanout: int, deltas: bool, refusals: int, adapters: bool) -> None:
        self.fanout, self.deltas, self.refusals, self.adapters = fanout, deltas, refusals, adapters
        self.policy = policy_of(fanout, deltas, refusals, adapters)
        self.now = 0.0
        self.newest: Identity | None = None
        self.version = 0
        self.peers: dict[str, Peer] = {}
        self.joined = 0
        self.running: list[Push] = []
        self.begun: set[Push] = set()
        self.rounds, self.again_at = 0, math.inf
        self.made: set[MakeDelta] = set()

    # The world.

    @rule()
    def a_version_is_trained(self) -> None:
        self.version += 1
        self.newest, self.rounds = identity(self.version), 0
        self.policy.offer(self.newest)
        self.act()

    @precondition(lambda self: len(self.peers) < 7)
    @rule(version=st.integers(0, 3), form=st.sampled_from(["bf16", "e4m3"]))
    def a_replica_joins(self, version: int, form: str) -> None:
        self.joined += 1
        at = identity(min(version, self.version))
        self.peers[f"replica-{self.joined}"] = Peer(form, at, at, at, at)
        self.look()

    @precondition(lambda self: self.peers)
    @rule(data=st.data())
    def a_replica_leaves(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.peers)))
        del self.peers[name]
        gone = [push for push in self.running if push.branch.root == name]
        for push in gone:
            self.running.remove(push)
            self.release(push)
        self.look(abandoned=gone)

    @rule(seconds=st.sampled_from([0.1, 1.0, DEADLINE + 0.1, OFFERED_AGAIN_SECONDS]))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds
        self.act()

    @rule(data=st.data())
    def the_registry_is_read(self, data: st.DataObject) -> None:
        for peer in self.peers.values():
            if data.draw(st.booleans()):
                peer.recorded = peer.serving
        self.look()

    @precondition(lambda self: any(peer.expects for peer in self.peers.values()))
    @rule(data=st.data())
    def a_replica_is_passed_its_version(self, data: st.DataObject) -> None:
        expecting = sorted(name for name, peer in self.peers.items() if peer.expects)
        peer = self.peers[data.draw(st.sampled_from(expecting))]
        assert peer.expects is not None
        peer.serving = peer.expects

    # Answers.

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def bytes_are_ready(self, data: st.DataObject) -> None:
        self.are_ready(self.drawn(data))
        self.act()

    def are_ready(self, push: Push) -> None:
        self.begun.add(push)
        self.policy.begun(push, self.now)
        for name in push.branch.below():
            if name in self.peers and self.peers[name].expects:
                self.peers[name].expects_until = self.now + DEADLINE

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(["served", "failed", "overtaken", "tensor", "newer", "base", "form"]))
    def an_upload_ends(self, data: st.DataObject, outcome: str) -> None:
        push = self.drawn(data)
        self.running.remove(push)
        self.answer(push, outcome)
        self.act()

    def answer(self, push: Push, outcome: str) -> None:
        peer = self.peers[push.branch.root]
        if outcome != "served":
            self.release(push)
        match outcome:
            case "served":
                if push not in self.begun:
                    self.are_ready(push)
                peer.serving = peer.believed = peer.confirmed = push.version
                peer.aside = False
                if push.version == self.newest:
                    self.rounds = 0
                self.policy.served(push)
            case "failed":
                peer.rests = True
                self.policy.failed(push, "made up by the test")
            case "overtaken":
                self.policy.overtaken(push)
            case "base" if push.adapter:
                peer.merges = False
                assert self.policy.refused(push, BASE) == "otherwise"
            case "base" if push.base is not None:
                peer.refused_otherwise.add((push.version, "delta"))
                assert self.policy.refused(push, BASE) == "otherwise"
            case "form" if push.form != "bf16":
                peer.form = "bf16"
                assert self.policy.refused(push, FORM) == "otherwise"
            case _:
                peer.refused, peer.aside = push.version, False
                error = {"newer": NEWER, "base": BASE, "form": FORM}.get(outcome, TENSOR)
                said = self.policy.refused(push, error)
                assert said == ("superseded" if outcome == "newer" else "refused")

    def drawn(self, data: st.DataObject) -> Push:
        return self.running[data.draw(st.integers(0, len(self.running) - 1))]

    def release(self, push: Push) -> None:
        for name in push.branch.below():
            if name in self.peers and self.peers[name].expects == push.version:
                self.peers[name].expects = None

    # What the policy does.

    def look(self, abandoned: list[Push] | None = None) -> None:
        for peer in self.peers.values():
            peer.rests = False
            if peer.recorded != peer.seen:
                peer.seen = peer.believed = peer.recorded
            if peer.expects is not None and peer.seen == peer.expects:
                peer.confirmed, peer.expects, peer.aside = peer.seen, None, False
            elif peer.expects is not None and self.now > peer.expects_until:
                peer.expects = None
        self.policy.look([Seen(name, peer.seen, peer.form) for name, peer in self.peers.items()], self.now)
        self.act(abandoned or [])

    def act(self, abandoned: list[Push] | None = None) -> None:
        told = self.policy.decide(self.now)
        assert [one.push for one in told if isinstance(one, Abandon)] == (abandoned or [])
        for decision in told:
            match decision:
                case SetAside(name):
                    assert not self.peers[name].aside, "told once"
                    self.peers[name].aside = True
                case RefusedByAll():
                    self.every_replica_refuses(decision)
                case MakeDelta():
                    assert self.deltas
                    assert decision.version == self.newest
                    assert decision.base in self.policy.kept - {self.newest}
                    self.made.add(decision)
                case Push():
                    self.an_upload_begins(decision)

    def every_replica_refuses(self, told: RefusedByAll) -> None:
        self.rounds += 1
        assert told.version == self.newest
        assert all(peer.refused == self.newest for peer in self.peers.values())
        assert set(told.reasons) == set(self.peers)
        assert told.final == (self.rounds == self.refusals)
        self.again_at = math.inf if told.final else self.now + OFFERED_AGAIN_SECONDS

    def an_upload_begins(self, push: Push) -> None:
        assert push.version == self.newest
        names = [push.branch.root, *push.branch.below()]
        if any(self.peers[name].refused == self.newest for name in names):
            assert self.now >= self.again_at, "nobody is asked again at once, or after the last time"
            assert all(peer.refused == self.newest for peer in self.peers.values()), "or where one may take it"
            for peer in self.peers.values():
                peer.refused = None
        for name in names:
            peer = self.peers[name]
            assert not self.busy(name), "one upload at a time"
            assert not peer.done(self.newest), "it has it, or has refused it"
            assert not peer.rests
            assert push.adapter == (self.adapters and peer.merges)
            assert push.form == ("bf16" if push.adapter else peer.form)
            assert not (push.adapter and push.base)
            if push.base is not None:
                assert peer.believed == push.base
                assert (push.version, "delta") not in peer.refused_otherwise
                assert MakeDelta(push.base, push.version, push.form) in self.made
        if len(names) > 1:
            assert len(self.peers) > self.fanout
            assert not any(self.peers[name].aside for name in names), "nobody waits for one that was set aside"
        self.within_fanout(push.branch)
        self.running.append(push)
        for name in push.branch.below():
            self.peers[name].expects, self.peers[name].expects_until = push.version, math.inf

    def within_fanout(self, branch: Branch) -> None:
        assert len(branch.children) <= self.fanout
        for child in branch.children:
            self.within_fanout(child)

    def busy(self, name: str) -> bool:
        return self.peers[name].expects is not None or any(push.branch.root == name for push in self.running)

    def counted(self) -> int:
        return sum(not self.peers[push.branch.root].aside for push in self.running)

    # What always holds.

    @invariant()
    def the_trainer_sends_to_no_more_than_the_fanout(self) -> None:
        assert self.counted() <= self.fanout

    @invariant()
    def nobody_waits_without_a_reason(self) -> None:
        for name, peer in self.peers.items():
            if self.newest is None or peer.done(self.newest) or self.busy(name):
                continue
            crowded = len(self.peers) > self.fanout and not peer.aside and self.counted() == self.fanout
            assert peer.rests or crowded, name

    @invariant()
    def counts_agree(self) -> None:
        assert self.policy.live == len(self.peers)
        assert self.policy.set_aside == sum(peer.aside for peer in self.peers.values())
        assert self.policy.settled == all(peer.done(self.newest) for peer in self.peers.values() if self.newest)
        assert len(self.policy.kept) <= 3
        assert self.newest is None or self.newest in self.policy.kept

    def teardown(self) -> None:
        """Once everything works again, everybody has the newest version but who has refused it."""
        if not hasattr(self, "policy") or self.newest is None:
            return
        for _ in range(4 + 2 * len(self.peers)):
            for push in list(self.running):
                self.running.remove(push)
                for name in push.branch.below():
                    if name in self.peers and self.peers[name].expects == push.version:
                        self.peers[name].serving = push.version
                self.answer(push, "served")
                self.act()
            for peer in self.peers.values():
                peer.recorded = peer.serving
            self.now += max(DEADLINE, OFFERED_AGAIN_SECONDS) + 0.1
            self.look()
        assert self.policy.settled
        for name, peer in self.peers.items():
            assert peer.serving == self.newest or peer.refused == self.newest, name


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, deadline=None)
