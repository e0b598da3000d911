"""Reads a number as people and models write it, to compare answers by value and not by spelling."""

from __future__ import annotations

import re
from decimal import Decimal

LONGEST = 100
"""Characters. Anything longer is compared as text."""

_NUMBER = re.compile(
    r"""(?P<sign>[+-]?)
        (?P<whole>\d{1,3}(?:,\d{3})+ | \d*)   # 1,000 or 1000
        (?P<decimals>\.\d*)?
        (?P<exponent>[eE][+-]?\d{1,4})?""",
    re.VERBOSE | re.ASCII,
)
_CURRENCY = "$€£¥"


def number_in(text: str) -> Decimal | None:
    """The value of `text` when all of it is one number; None for anything else.

    Around the number may stand white space, a currency sign, `%`, a pair of `$` as in LaTeX, and a full stop. Thousands
    may be set apart by commas. A number with leading zeros, such as 007, is a code and not a number.
    """
    text = text.strip().replace("\N{MINUS SIGN}", "-")
    if not text or len(text) > LONGEST:
        return None
    text = text.removesuffix(".").removesuffix("$").rstrip().removesuffix("%").removesuffix("\\")
    sign = text[0] if text and text[0] in "+-" else ""
    digits = text.removeprefix(sign).lstrip()
    if digits and digits[0] in _CURRENCY:
        digits = digits[1:].lstrip()
    match = _NUMBER.fullmatch(sign + digits)
    if match is None:
        return None
    whole, decimals = match["whole"].replace(",", ""), (match["decimals"] or "").rstrip(".")
    if not (whole or decimals.strip(".")) or (len(whole) > 1 and whole[0] == "0"):
        return None
    return Decimal(f"{match['sign']}{whole or '0'}{decimals}{match['exponent'] or ''}")
