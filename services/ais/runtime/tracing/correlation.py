"""Which group the code that runs now works on: every log line that it writes has the group's id.

A group's id is made by the collector. It names the group on the wire, in the queue, in the trainer's records and in the
logs of every service, from the prompt to the optimizer step.
"""

from __future__ import annotations

from contextvars import ContextVar

_GROUP: ContextVar[str] = ContextVar("group", default="")


def about_group(group_id: str) -> None:
    """The task that calls this works on the group until it ends, and so do the tasks that it starts from now on."""
    _GROUP.set(group_id)


def current_group() -> str:
    """Empty where no group is worked on."""
    return _GROUP.get()
