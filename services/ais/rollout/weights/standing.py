"""What a replica follows and serves, and what it therefore says to an offer. Pure.

- A version is taken when (incarnation, version) is greater than what serves and what is coming, so a trainer that went
  back to a checkpoint is followed, and one that was replaced is not.
- Incarnations count within a run. An offer of another run is taken only where Redis names that run: the run was begun
  anew, its trainers count from 1 again, and whatever the old one still sends is refused from the moment on that a
  version of the new one is on its way.
- No offer has a higher incarnation than the run's lease has granted: a number counts only when Redis has it too.
- What serves already is confirmed, and nothing is done. The same version never gets another digest.
- A delta needs its base, in its form, with its files here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from ais.contracts.weights.offer import Offer
from ais.contracts.weights.refusal import WeightsRefusedError

FROM_DISK = -1
"""Incarnation of what the replica loaded itself: any trainer's offer is newer."""
_SAME = {"version", "run", "incarnation", "digest", "encoding", "form", "base", "shards"}


class Verdict(Enum):
    """What an offer is to a replica."""

    SERVED = auto()
    """It serves already."""
    COMING = auto()
    """Its bytes are on their way."""
    NEW = auto()
    """It takes the place of whatever was coming."""


@dataclass(frozen=True)
class Standing:
    """A replica as an offer finds it."""

    version: int
    digest: str
    form: str
    files: tuple[str, ...]
    """Names of the files that serve, for deltas."""
    run: str = ""
    """Identity of the run that it follows; empty: none yet."""
    incarnation: int = FROM_DISK
    coming: Offer | None = None

    @property
    def leaves_its_run(self) -> bool:
        """Whether Redis has named another run, whose first version is on its way."""
        return self.coming is not None and self.coming.run != self.run


@dataclass(frozen=True)
class Lease:
    """What Redis says of the run of a name: its identity, and its newest trainer's incarnation."""

    run: str
    incarnation: int


def is_known(standing: Standing, offer: Offer) -> bool:
    """Whether the offer's trainer has been followed or let in before: the lease need not be asked about it."""
    if offer.run != standing.run or standing.leaves_its_run:
        return False
    coming = standing.coming.incarnation if standing.coming else FROM_DISK
    return offer.incarnation <= max(standing.incarnation, coming)


def follow(standing: Standing, offer: Offer, lease: Lease | None) -> Standing:
    """The standing by which the offer is judged. `lease`: None where Redis has none.

    Raises WeightsRefusedError for an offer of a run that the replica has no reason to follow, or of a trainer that the
    run's lease does not know.
    """
    if lease and offer.run == lease.run and offer.incarnation > lease.incarnation:
        reason = f"expected one that the run's lease has granted, at most {lease.incarnation}, got {offer.incarnation}"
        raise WeightsRefusedError("incarnation", reason, 409)
    if offer.run == standing.run and not standing.leaves_its_run:
        return standing
    followed = standing.coming.run if standing.coming and standing.leaves_its_run else standing.run
    named = lease.run if lease else followed
    if (lease or followed) and offer.run != named:
        reason = f"expected run {named}, got {offer.run or 'no run'}; another run has this name"
        raise WeightsRefusedError("run", reason, 409)
    coming = standing.coming if standing.coming and standing.coming.run == offer.run else None
    if offer.run == standing.run:
        return replace(standing, coming=coming)
    return replace(standing, run=offer.run, incarnation=FROM_DISK, coming=coming)


def judge(standing: Standing, offer: Offer) -> Verdict:
    """What the offer is, by the standing that `follow` gave. Raises WeightsRefusedError for what must not be served."""
    if (offer.version, offer.digest) == (standing.version, standing.digest):
        return Verdict.SERVED
    if (offer.incarnation, offer.version) == (standing.incarnation, standing.version):
        reason = f"version {offer.version} is served with digest {standing.digest}; a version never changes"
        raise WeightsRefusedError("digest", reason, 409)
    newest = (standing.incarnation, standing.version)
    if standing.coming is not None:
        newest = max(newest, (standing.coming.incarnation, standing.coming.version))
    if (offer.incarnation, offer.version) < newest:
        reason = (
            f"expected something newer than version {newest[1]} of the trainer's incarnation {newest[0]}, got version "
            f"{offer.version} of incarnation {offer.incarnation}"
        )
        raise WeightsRefusedError("version", reason, 409)
    if standing.coming is not None and same_bytes(standing.coming, offer):
        return Verdict.COMING
    _check_base(standing, offer)
    return Verdict.NEW


def same_bytes(one: Offer, other: Offer) -> bool:
    """Whether the same bytes are on their way, whoever sends them and whomever they are passed on to."""
    return one.model_dump(include=_SAME) == other.model_dump(include=_SAME)


def _check_base(standing: Standing, offer: Offer) -> None:
    if offer.base is None:
        return
    here = (standing.version, standing.digest, standing.form, standing.files)
    if here != (offer.base.version, offer.base.digest, offer.form, tuple(shard.name for shard in offer.shards)):
        reason = (
            f"expected a delta to version {standing.version} in the form {standing.form}, with its files here, got one "
            f"to {offer.base.version} in {offer.form}"
        )
        raise WeightsRefusedError("base", f"{reason}; send the full version", 409)
