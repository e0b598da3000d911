"""Events are believed only where the trainer's position bears them out; anything else in the stream is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.contracts.events import (
    Discarded,
    Event,
    EventOrder,
    Finished,
    Position,
    Resumed,
    StrayEventError,
    Told,
    VersionPublished,
)

AT_FIVE = Position(incarnation=2, version=5, digest="blake3:5", finished=False, newest=7)
FIELDS = st.sampled_from([b"kind", b"incarnation", b"version", b"digest", b"ordinal", b"reason", b"hello"])
KINDS = st.sampled_from([b"version", b"resumed", b"discarded", b"finished"])
ENTRY = st.dictionaries(FIELDS, st.binary(max_size=20) | KINDS | st.integers(0, 2**60).map(lambda n: b"%d" % n))


def encoded(told: Told) -> dict[bytes, bytes]:
    return {str(name).encode(): str(value).encode() for name, value in told.fields().items()}


def followed(*story: tuple[int, Event]) -> EventOrder:
    order = EventOrder()
    for incarnation, event in story:
        order.check(Told(incarnation, event), AT_FIVE)
    return order


NOW = (
    (1, Resumed(0, "d0")),
    (1, VersionPublished(7, "d7")),
    (2, Resumed(4, "d4")),
    (2, VersionPublished(5, "blake3:5")),
)
"""The history that leads to AT_FIVE."""


@pytest.mark.parametrize("event", [VersionPublished(3, "d"), Resumed(3, "d"), Discarded(9, "why"), Finished(4)])
def test_an_event_comes_back_from_the_stream_as_it_was(event: Event) -> None:
    assert Told.of(encoded(Told(2, event))) == Told(2, event)


@given(ENTRY)
def test_any_entry_is_an_event_with_numbers_that_can_be_worked_with_or_is_refused(entry: dict[bytes, bytes]) -> None:
    try:
        told = Told.of(entry)
    except StrayEventError:
        return
    number = told.event.ordinal if isinstance(told.event, Discarded) else told.event.version
    assert 0 <= number < 2**53
    assert 0 <= told.incarnation < 2**53


@given(ENTRY)
def test_a_refusal_names_no_more_than_a_line_of_what_came(entry: dict[bytes, bytes]) -> None:
    with pytest.raises(StrayEventError) as refused:
        Told.of(entry | {b"kind": b"\x1b[2J" * 1000})
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("number", [b"", b"-1", b"1.5", b"1_0", b" 1", b"0x1", "١".encode(), b"9" * 30, b"\xff"])
def test_a_number_is_plain_digits(number: bytes) -> None:
    with pytest.raises(StrayEventError, match="version"):
        Told.of({b"kind": b"version", b"incarnation": b"1", b"version": number, b"digest": b""})


@pytest.mark.parametrize(
    ("incarnation", "event", "reason"),
    [
        (2, Resumed(5, "blake3:other"), "has the digest blake3:5, not blake3:other"),
        (2, Resumed(0, "d0"), "resumed 0 came after version 5"),
        (2, Resumed(4, "d4"), "resumed 4 came after version 5"),
        (1, Resumed(0, "d0"), "trainer 2 has replaced trainer 1"),
        (3, Resumed(0, "d0"), "trainer 3 has never started"),
        (10**12, Resumed(0, "d0"), "has never started"),
        (2, VersionPublished(10**12, "d"), "no version 1000000000000, its newest is 5"),
        (2, VersionPublished(6, "d"), "no version 6, its newest is 5"),
        (2, VersionPublished(4, "d4"), "version 4 came after version 5"),
        (2, VersionPublished(5, "blake3:other"), "has the digest blake3:5, not blake3:other"),
        (1, VersionPublished(5, "blake3:5"), "trainer 2 has replaced trainer 1"),
        (2, Finished(5), "has not finished"),
        (2, Finished(10**12), "no version"),
        (1, Finished(5), "trainer 2 has replaced trainer 1"),
        (1, Discarded(3, ""), "trainer 2 has replaced trainer 1"),
        (3, Discarded(3, ""), "has never started"),
    ],
)
def test_what_the_trainer_cannot_have_told_is_refused(incarnation: int, event: Event, reason: str) -> None:
    order = followed(*NOW)
    with pytest.raises(StrayEventError, match=reason):
        order.check(Told(incarnation, event), AT_FIVE)
    order.check(Told(2, VersionPublished(5, "blake3:5")), AT_FIVE)  # what was refused has changed nothing


def test_nothing_is_believed_before_a_trainer_has_a_position() -> None:
    with pytest.raises(StrayEventError, match="no trainer"):
        EventOrder().check(Told(0, Resumed(0, "")), None)


def test_an_event_written_twice_is_the_same_event() -> None:
    order = followed(*NOW[:3], NOW[2], NOW[3], NOW[3])
    finished = Position(2, 5, "blake3:5", finished=True, newest=7)
    for _ in range(2):
        order.check(Told(2, Finished(5)), finished)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12), st.sampled_from(["resumed", "version", "finished"]))))
def test_strays_among_the_events_never_hide_a_true_one(strays: list[tuple[int, int, str]]) -> None:
    """Whatever is written in between, a reader ends with the newest trainer's newest version."""
    order = EventOrder()
    believed: list[Event] = []
    make = {
        "resumed": lambda v: Resumed(v, "stray"),
        "version": lambda v: VersionPublished(v, "stray"),
        "finished": Finished,
    }
    cut = len(strays) // 2
    stray = [(incarnation, make[kind](version)) for incarnation, version, kind in strays]
    story = [*NOW[:2], *stray[:cut], *NOW[2:], *stray[cut:]]
    for incarnation, event in story:
        try:
            order.check(Told(incarnation, event), AT_FIVE)
        except StrayEventError:
            continue
        believed.append(event)
    assert NOW[3][1] in believed
    for event in believed[believed.index(NOW[3][1]) :]:
        assert event == NOW[3][1], "nothing after it changes where the trainer is"
