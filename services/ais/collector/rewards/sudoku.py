"""Sudoku: a filled grid that keeps the rules and the digits that were given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.extraction import extracted
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings.rewards import Sudoku

_BETWEEN = frozenset(" \t\n\r|+-,[]")
"""What may stand between the digits of a grid."""
_BLANK = frozenset("0._*")
SIZES = (4, 9)


def sudoku(settings: Sudoku) -> Verifier:
    """1 if the extracted grid, 4 x 4 or 9 x 9, is filled, has each digit once in each row, column and box, and keeps
    the digits of `puzzle` in the prompt's metadata; without `puzzle`, it must be the prompt's answer.

    A puzzle is text or a list of rows; 0, `.`, `_`, `*` and null are blanks. Raises ValueError, when it judges, for a
    prompt with neither.
    """

    def verify(response: Response, prompt: Prompt) -> float:
        given = _given(prompt)
        answer = extracted(response.text, settings.extract)
        grid = None if answer is None else grid_of(answer)
        if grid is None or len(grid) != len(given):
            return 0.0
        kept = all(digit in (0, filled) for digit, filled in zip(given, grid, strict=True))
        return float(kept and is_solved(grid))

    return verify


def grid_of(text: str) -> list[int] | None:
    """The cells of a grid row by row, blanks as 0; None for what is none of 4 x 4 or 9 x 9."""
    cells: list[int] = []
    for character in text:
        if character in _BETWEEN:
            continue
        if character in _BLANK:
            cells.append(0)
        elif character.isascii() and character.isdigit():
            cells.append(int(character))
        else:
            return None
    size = math.isqrt(len(cells))
    return cells if size in SIZES and size * size == len(cells) and max(cells) <= size else None


def is_solved(grid: Sequence[int]) -> bool:
    """Whether every row, column and box of a grid has each digit once."""
    size = math.isqrt(len(grid))
    box = math.isqrt(size)
    digits = set(range(1, size + 1))
    for index in range(size):
        row, column = divmod(index, box)
        in_box = [grid[(row * box + line) * size + column * box + place] for line in range(box) for place in range(box)]
        if any(set(part) != digits for part in (grid[index * size : (index + 1) * size], grid[index::size], in_box)):
            return False
    return True


def _given(prompt: Prompt) -> list[int]:
    puzzle = prompt.metadata.get("puzzle", prompt.answer)
    if (grid := grid_of(_as_text(puzzle))) is None:
        raise ValueError(f"prompt {prompt.prompt_id} is no sudoku: expected a grid of 4 x 4 or 9 x 9, got {puzzle!r}")
    return grid


def _as_text(puzzle: Any) -> str:
    if isinstance(puzzle, list | tuple):
        return "".join(map(_as_text, puzzle))
    return "0" if puzzle is None else str(puzzle)
