"""What each service asks of Redis: a server that forbids it is found at start, and an ACL allows nothing else.

Each list has one call of every command that the service uses, on its own keys, to be judged by the server and not
executed.
"""

from __future__ import annotations

from collections.abc import Iterable

from ais.contracts.keys import Keys
from ais.contracts.queue import CONSUMER_GROUP

Commands = list[tuple[str, ...]]

CONNECTING = "+@connection -@dangerous +@transaction +info"
"""What an ACL must let every client of ours do."""
WITH_SUBCOMMANDS = frozenset({"XGROUP", "XINFO", "SCRIPT", "LATENCY"})


def commands_of(keys: Keys) -> Commands:
    """All that a run asks for, where one user is everybody."""
    everything = (*trainer_commands(keys), *collector_commands(keys), *replica_commands(keys))
    return list(dict.fromkeys(everything))


def trainer_commands(keys: Keys) -> Commands:
    """Trains on the queue, announces versions, holds the run's lease; `ais deadletter` puts groups back."""
    groups, events, accepted = keys.groups, keys.events, keys.accepted
    return [
        *_queue_commands(keys),
        ("XADD", events, "*", "kind", "version"),
        ("XADD", keys.dead_letters, "*", "entry", "0-0"),
        ("XREADGROUP", "GROUP", CONSUMER_GROUP, "trainer", "STREAMS", groups, ">"),
        ("XAUTOCLAIM", groups, CONSUMER_GROUP, "trainer", "0", "0"),
        ("XACK", groups, CONSUMER_GROUP, "0-0"),
        ("XDEL", groups, "0-0"),
        ("XRANGE", keys.dead_letters, "-", "+"),
        ("XDEL", keys.dead_letters, "0-0"),
        ("XGROUP", "DELCONSUMER", groups, CONSUMER_GROUP, "trainer"),
        ("XINFO", "CONSUMERS", groups, CONSUMER_GROUP),
        ("ZSCORE", accepted, "0"),
        ("MGET", keys.identity, keys.incarnation),
        ("MSET", keys.identity, "", keys.incarnation, "0"),
        ("GET", keys.incarnation),
        ("HSET", keys.position, "version", "0"),
        ("HGET", keys.position, "version"),
        ("HGETALL", keys.position),
        ("HGETALL", keys.evaluations),
        ("HDEL", keys.evaluations, "0"),
        *_registry_commands(keys),
    ]


def collector_commands(keys: Keys) -> Commands:
    """Fills the queue and follows the trainer. It takes nothing out, and announces nothing."""
    return [
        *_queue_commands(keys),
        ("XREAD", "STREAMS", keys.events, "0"),
        ("HGET", keys.position, "version"),
        ("HGETALL", keys.position),
        ("HGETALL", keys.evaluations),
        ("HSETNX", keys.evaluations, "0", "{}"),
        *_registry_commands(keys),
    ]


def replica_commands(keys: Keys) -> Commands:
    """Writes its own record, and reads whose run it works for and who else does."""
    record = keys.replica("replica")
    return [
        ("SADD", keys.replicas, "replica"),
        ("SET", record, "{}", "PX", "1"),
        ("DEL", record),
        ("MGET", keys.identity, keys.incarnation),
        *_registry_commands(keys),
    ]


def exporter_commands() -> Commands:
    """Reads how the server is, beside INFO: nothing of any run."""
    return [("LATENCY", "LATEST")]


def rights(commands: Iterable[tuple[str, ...]]) -> str:
    """The same for an ACL of Redis 7 or Valkey: these commands and no other."""
    names = {f"{command[0]}|{command[1]}" if command[0] in WITH_SUBCOMMANDS else command[0] for command in commands}
    return " ".join((CONNECTING, *(f"+{name.lower()}" for name in sorted(names))))


def _queue_commands(keys: Keys) -> Commands:
    """Adding to the queue, and counting and comparing what is in it."""
    groups, accepted = keys.groups, keys.accepted
    return [
        ("XADD", groups, "*", "ordinal", "0"),
        ("XLEN", groups),
        ("XRANGE", groups, "-", "+"),
        ("XGROUP", "CREATE", groups, CONSUMER_GROUP, "0", "MKSTREAM"),
        ("ZADD", accepted, "NX", "0", "0"),
        ("ZREM", accepted, "0"),
        ("ZRANGE", accepted, "0", "+inf", "BYSCORE"),
        ("EVALSHA", "0" * 40, "1", groups),
        ("SCRIPT", "LOAD", "return 0"),
    ]


def _registry_commands(keys: Keys) -> Commands:
    """Reading the registry, and forgetting the names of those whose record has expired."""
    return [
        ("SMEMBERS", keys.replicas),
        ("SREM", keys.replicas, "replica"),
        ("MGET", keys.replica("replica")),
    ]
