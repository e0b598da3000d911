"""`python -m ais.cli`."""

from __future__ import annotations

from ais.cli import main

main()
