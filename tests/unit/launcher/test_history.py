"""A history is whole, or what is wrong with it is named."""

from __future__ import annotations

from typing import Any

import pytest

from ais.launcher.directory.history import history_problems

STEPS, GROUPS = 4, 2


def whole() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A ledger of two commits of two steps each, and the steps' records."""

    def of(begin: int, end: int) -> dict[str, Any]:
        ordinals = list(range(begin, end))
        return {
            "ordinals": ordinals,
            "group_ids": [f"g{o}" for o in ordinals],
            "entry_ids": [f"{o}-0" for o in ordinals],
        }

    ledger = [of(0, 4), of(4, 8)]
    records = [{"version": k + 1, **of(k * GROUPS, (k + 1) * GROUPS)} for k in range(STEPS)]
    return ledger, records


def problems(ledger: list[dict[str, Any]], records: list[dict[str, Any]]) -> str:
    return "; ".join(history_problems(ledger, records, STEPS, GROUPS))


def test_a_whole_history_has_no_problems() -> None:
    assert problems(*whole()) == ""


def test_a_group_that_is_missing_has_vanished() -> None:
    ledger, records = whole()
    for values in ledger[1].values():
        values.pop(0)
    assert "1 groups vanished, such as that of ordinal 4" in problems(ledger, records)


@pytest.mark.parametrize("what", ["ordinals", "group_ids", "entry_ids"])
def test_a_group_that_was_consumed_twice_is_named(what: str) -> None:
    ledger, records = whole()
    ledger[1][what].append(ledger[0][what][0])
    assert f"1 {what} were consumed more than once, such as {ledger[0][what][0]}" in problems(ledger, records)


def test_a_step_trained_twice_is_a_problem() -> None:
    ledger, records = whole()
    assert "the steps recorded are not 1 to 4" in problems(ledger, [*records, records[-1]])


def test_a_step_of_other_ordinals_is_a_problem() -> None:
    ledger, records = whole()
    records[2]["ordinals"] = [5, 4]
    assert "step 3 was trained on other ordinals than its own" in problems(ledger, records)


def test_a_group_trained_and_another_committed_is_a_problem() -> None:
    ledger, records = whole()
    records[0]["group_ids"][0] = "another attempt"
    assert "are not those that the checkpoints committed" in problems(ledger, records)
