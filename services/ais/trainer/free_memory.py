"""Gives memory that is free back to the system.

The forward and backward passes allocate and free tensors of many sizes, and glibc keeps what is freed for later. In a
long run the pieces between those still used add up: the process grows while its live objects do not.
"""

from __future__ import annotations

import ctypes
import sys


def give_back_free_memory() -> None:
    """Takes some milliseconds. Does nothing where the C library is not glibc."""
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
