"""What the services ask of Redis, so that a server that forbids it is found at start."""

from __future__ import annotations

from ais.contracts.keys import Keys
from ais.contracts.queue import CONSUMER_GROUP


def commands_of(keys: Keys) -> list[tuple[str, ...]]:
    """One call of every command that a run uses, on its own keys; to be judged by the server, not executed."""
    groups, events, accepted = keys.groups, keys.events, keys.accepted
    return [
        ("XADD", groups, "*", "ordinal", "0"),
        ("XADD", events, "*", "kind", "version"),
        ("XADD", keys.dead_letters, "*", "entry", "0-0"),
        ("XREADGROUP", "GROUP", CONSUMER_GROUP, "trainer", "STREAMS", groups, ">"),
        ("XAUTOCLAIM", groups, CONSUMER_GROUP, "trainer", "0", "0"),
        ("XACK", groups, CONSUMER_GROUP, "0-0"),
        ("XDEL", groups, "0-0"),
        ("XLEN", groups),
        ("XRANGE", keys.dead_letters, "-", "+"),
        ("XREVRANGE", events, "+", "-"),
        ("XREAD", "STREAMS", events, "0"),
        ("XGROUP", "CREATE", groups, CONSUMER_GROUP, "0", "MKSTREAM"),
        ("XGROUP", "DELCONSUMER", groups, CONSUMER_GROUP, "trainer"),
        ("XINFO", "CONSUMERS", groups, CONSUMER_GROUP),
        ("ZADD", accepted, "NX", "0", "0"),
        ("ZREM", accepted, "0"),
        ("ZRANGE", accepted, "0", "+inf", "BYSCORE"),
        ("ZSCORE", accepted, "0"),
        ("SADD", keys.replicas, "replica"),
        ("SREM", keys.replicas, "replica"),
        ("SMEMBERS", keys.replicas),
        ("SET", keys.replica("replica"), "{}", "PX", "1"),
        ("DEL", keys.replica("replica")),
        ("MGET", keys.identity, keys.incarnation),
        ("MSET", keys.identity, "", keys.incarnation, "0"),
        ("GET", keys.incarnation),
        ("HSET", keys.position, "version", "0"),
        ("HGET", keys.position, "version"),
        ("HGETALL", keys.position),
        ("HGETALL", keys.evaluations),
        ("HSETNX", keys.evaluations, "0", "{}"),
        ("HDEL", keys.evaluations, "0"),
        ("EVALSHA", "0" * 40, "1", groups),
        ("SCRIPT", "LOAD", "return 0"),
    ]


def replica_commands(keys: Keys) -> list[tuple[str, ...]]:
    """The same of a rollout replica: it writes its own record, and reads whose run it works for."""
    record = keys.replica("replica")
    return [
        ("SADD", keys.replicas, "replica"),
        ("SREM", keys.replicas, "replica"),
        ("SET", record, "{}", "PX", "1"),
        ("DEL", record),
        ("MGET", keys.identity, keys.incarnation),
    ]
