"""How a record that must not be used is refused: with the field and the reason."""

from __future__ import annotations

from typing import NoReturn

from ais.contracts.limits import LONGEST_NAME
from ais.runtime.text import printable


class MalformedRecordError(ValueError):
    """A record that must not be used. `field` says where, `reason` says what was expected and what came.

    Both are printable and bounded, whatever a peer put into the record.
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = printable(field, 200)
        self.reason = printable(reason)
        super().__init__(f"{self.field}: {self.reason}")


def refuse(field: str, reason: str) -> NoReturn:
    """Raises MalformedRecordError."""
    raise MalformedRecordError(field, reason)


def check_name(name: str, field: str, may_be_empty: bool = False) -> None:
    """Raises MalformedRecordError for a name that is empty or too long."""
    if not name and not may_be_empty:
        refuse(field, "must not be empty")
    if len(name) > LONGEST_NAME:
        refuse(field, f"expected up to {LONGEST_NAME} characters, got {len(name)}")
