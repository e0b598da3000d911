"""What a replica says to an offer: it follows the newest trainer of the run that Redis names, and nobody else."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ais.contracts.weights.offer import Base, Offer, Shard, digest_of
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.rollout.weights.standing import FROM_DISK, Lease, Standing, Verdict, follow, is_known, judge

FILE = "model.safetensors"


def digest(version: int, run: str = "") -> str:
    return digest_of(f"{run} {version}".encode())


def offer_of(version: int, incarnation: int = 1, run: str = "a", base: int | None = None, content: str = "") -> Offer:
    whole = digest_of(f"{run} {version}{content}".encode())
    shard = Shard(name=FILE, size=1, digest=whole, sent_size=1, sent_digest=whole)
    return Offer(
        version=version, run=run, incarnation=incarnation, digest=whole, shards=(shard,),
        encoding="full" if base is None else "delta",
        base=None if base is None else Base(version=base, digest=digest(base, run)),
    )  # fmt: skip


def standing_of(version: int, incarnation: int = 1, run: str = "a", coming: Offer | None = None) -> Standing:
    return Standing(version, digest(version, run), "bf16", (FILE,), run, incarnation, coming)


def refusal(standing: Standing, offer: Offer, named: str | None = None) -> str:
    with pytest.raises(WeightsRefusedError) as error:
        judge(follow(standing, offer, Lease(named, 9) if named else None), offer)
    assert error.value.status == 409
    return error.value.field


def test_a_run_that_was_begun_anew_is_followed_from_its_first_trainer_on() -> None:
    old, anew = standing_of(120, incarnation=2, run="old"), offer_of(0, incarnation=1, run="new")
    followed = follow(old, anew, Lease("new", 1))
    assert (followed.run, followed.incarnation, judge(followed, anew)) == ("new", FROM_DISK, Verdict.NEW)


def test_what_the_trainer_of_the_old_run_still_sends_is_refused() -> None:
    assert refusal(standing_of(0, run="new"), offer_of(121, incarnation=9, run="old"), named="new") == "run"


@pytest.mark.parametrize("named", [None, "new"])
def test_what_the_old_run_still_sends_does_not_take_the_place_of_what_comes_of_the_new_one(named: str | None) -> None:
    """Versions and incarnations of two runs say nothing of each other."""
    leaving = standing_of(1, run="old", coming=offer_of(0, run="new"))
    for version in (0, 5):
        assert refusal(leaving, offer_of(version, run="old"), named) == "run"
    assert not is_known(leaving, offer_of(5, run="old"))


@pytest.mark.parametrize("named", [None, "a"])
def test_a_replica_leaves_its_run_for_none_that_redis_does_not_name(named: str | None) -> None:
    for run in ("b", ""):
        assert refusal(standing_of(1), offer_of(5, incarnation=9, run=run), named) == "run"


def test_a_replica_that_follows_nobody_takes_any_run_while_redis_names_none() -> None:
    fresh = standing_of(0, FROM_DISK, run="")
    assert judge(follow(fresh, offer_of(1), None), offer_of(1)) is Verdict.NEW


def test_the_bytes_of_a_run_that_is_not_followed_yet_go_on_where_they_were() -> None:
    anew = offer_of(0, run="new")
    old = standing_of(120, incarnation=2, run="old", coming=anew)
    assert judge(follow(old, anew, Lease("new", 1)), anew) is Verdict.COMING


def test_a_higher_incarnation_counts_only_when_the_lease_has_granted_it() -> None:
    serving, claimed = standing_of(7, incarnation=2), offer_of(8, incarnation=3)
    assert not is_known(serving, claimed)
    with pytest.raises(WeightsRefusedError, match=r"incarnation.*at most 2, got 3") as error:
        follow(serving, claimed, Lease("a", 2))
    assert error.value.status == 409
    assert judge(follow(serving, claimed, Lease("a", 3)), claimed) is Verdict.NEW


def test_the_lease_is_asked_about_a_trainer_once() -> None:
    assert is_known(standing_of(7, incarnation=2), offer_of(8, incarnation=2))
    assert is_known(standing_of(7, incarnation=2, coming=offer_of(8, incarnation=3)), offer_of(9, incarnation=3))
    assert not is_known(standing_of(7, incarnation=2, run="b"), offer_of(8, incarnation=2))


def test_a_delta_to_another_base_is_refused() -> None:
    assert refusal(standing_of(1), offer_of(3, base=2)) == "base"
    assert judge(standing_of(2), offer_of(3, base=2)) is Verdict.NEW


class AnyOrder(RuleBasedStateMachine):
    """Runs begun anew, trainers restarted, and offers of any of them, late ones too."""

    @initialize()
    def begin(self) -> None:
        self.runs = 1
        self.incarnations = {"run-1": 1}
        self.standing = standing_of(0, FROM_DISK, run="")
        self.served: list[Offer] = []
        self.confirmed = (0, FROM_DISK)
        """Run and incarnation of the newest trainer that was followed."""

    @property
    def named(self) -> str:
        return f"run-{self.runs}"

    @rule()
    def the_run_is_begun_anew(self) -> None:
        self.runs += 1
        self.incarnations[self.named] = 1

    @rule()
    def the_trainer_starts_again(self) -> None:
        self.incarnations[self.named] += 1

    @rule(
        run=st.integers(1, 3), back=st.integers(0, 2), version=st.integers(0, 4), base=st.none() | st.integers(0, 4),
        content=st.sampled_from(["", "!"]), whole=st.booleans(),
    )  # fmt: skip
    def a_version_is_offered(
        self, run: int, back: int, version: int, base: int | None, content: str, whole: bool
    ) -> None:
        name = f"run-{min(run, self.runs)}"
        incarnation = max(1, self.incarnations[name] - back)
        offer = offer_of(version, incarnation, name, base, content)
        before = self.standing
        try:
            followed = follow(before, offer, Lease(self.named, self.incarnations[self.named]))
            verdict = judge(followed, offer)
        except WeightsRefusedError as error:
            self.is_refused_rightly(offer, error.field)
            return
        assert name in (before.run, self.named), "it follows the run that it followed, or the one that Redis names"
        assert self.may_be_taken(before, offer) or verdict is Verdict.SERVED
        if verdict is Verdict.SERVED:
            assert (offer.version, offer.digest) == (before.version, before.digest)
            newest = max(followed.incarnation, incarnation)
            self.standing = Standing(before.version, before.digest, "bf16", (FILE,), name, newest, followed.coming)
            return
        if offer.base is not None and verdict is Verdict.NEW:
            assert (offer.base.version, offer.base.digest) == (before.version, before.digest)
        if verdict is Verdict.COMING:
            assert before.coming is not None
            assert before.coming.digest == offer.digest
            assert before.coming.incarnation == incarnation
        if whole:
            self.standing = Standing(version, offer.digest, "bf16", (FILE,), name, incarnation, None)
            self.served.append(offer)
        else:
            # As the replica does: it follows the run once a version of it serves.
            self.standing = Standing(
                before.version, before.digest, "bf16", (FILE,), before.run, before.incarnation, offer
            )

    def may_be_taken(self, before: Standing, offer: Offer) -> bool:
        """Newer than what serves and than what is coming, of the same run."""
        order = (offer.incarnation, offer.version)
        if offer.run == before.run and order <= (before.incarnation, before.version):
            return False
        coming = before.coming
        return coming is None or coming.run != offer.run or order >= (coming.incarnation, coming.version)

    def is_refused_rightly(self, offer: Offer, field: str) -> None:
        before = self.standing
        match field:
            case "run":
                assert offer.run != self.named
                assert offer.run != before.run or before.leaves_its_run
            case "digest":
                assert (offer.version, offer.run) == (before.version, before.run)
                assert offer.digest != before.digest
            case "version":
                assert not self.may_be_taken(before, offer)
            case "base":
                assert offer.base is not None
                assert (offer.base.version, offer.base.digest) != (before.version, before.digest)
            case _:
                raise AssertionError(field)

    @invariant()
    def within_a_run_nothing_goes_back(self) -> None:
        for earlier, later in zip(self.served, self.served[1:], strict=False):
            if earlier.run == later.run:
                assert (later.incarnation, later.version) > (earlier.incarnation, earlier.version)

    @invariant()
    def a_run_that_was_left_is_never_followed_again(self) -> None:
        runs = [offer.run for offer in self.served]
        assert runs == sorted(runs)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, deadline=None)
