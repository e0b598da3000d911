"""How a worker knows the requests whose routes are wanted."""

RECORDED = "ais-routed-"
"""What their names begin with; a number follows."""


def own_name(name: str) -> str:
    """The name that the engine gave to a request whose routes are wanted: vLLM has put random characters behind it."""
    return RECORDED + name.removeprefix(RECORDED).partition("-")[0]
