"""The commands that are checked at start are those that the services use."""

from __future__ import annotations

import re
from pathlib import Path

import ais
from ais.contracts.keys import Keys
from ais.contracts.redis_commands import commands_of

SOURCES = [path.read_text(encoding="utf-8") for path in Path(ais.__path__[0]).rglob("*.py")]
NO_COMMANDS = {"aclose", "pipeline", "execute", "register", "ping", "info", "call", "model"}
"""Commands of the client itself, of every connection, of scripts and of settings."""


def test_every_command_in_the_source_is_checked() -> None:
    checked = {command[0] for command in commands_of(Keys("demo"))}
    in_scripts = {name for text in SOURCES for name in re.findall(r"redis\.call\('([A-Z]+)'", text)}
    methods = {name for text in SOURCES for name in re.findall(r"\b_?(?:redis|pipeline)\.([a-z]+)[a-z_]*\(", text)}
    called = {"DEL" if name == "delete" else name.upper() for name in methods - NO_COMMANDS}
    assert {"XADD", "HGET"} <= in_scripts
    assert {"XREADGROUP", "MSET", "DEL"} <= called
    assert in_scripts | called <= checked
