"""What a replica follows and serves, and what it therefore says to an offer. Pure.

- A version is taken when (incarnation, version) is greater than what serves and what is coming, so a trainer that went
  back to a checkpoint is followed, and one that was replaced is not.
- Incarnations count within a run. An offer of another run is taken only where Redis names that run: the run was begun
  anew, its trainers count from 1 again, and whatever the old one still sends is refused.
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


def follow(standing: Standing, offer: Offer, named_run: str | None) -> Standing:
    """The standing by which the offer is judged. `named_run`: what Redis names; None: nothing.

    Raises WeightsRefusedError for an offer of a run that the replica has no reason to follow.
    """
    if offer.run == standing.run:
        return standing
    if named_run != offer.run and (named_run is not None or standing.run):
        reason = f"expected run {named_run or standing.run}, got {offer.run or 'no run'}; another run has this name"
        raise WeightsRefusedError("run", reason, 409)
    coming = standing.coming if standing.coming and standing.coming.run == offer.run else None
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
