"""Limits of every record that crosses between services. What is outside them is refused at the border.

They are far from anything that a healthy service sends, and close enough that nothing within them can overflow
float32 arithmetic, exhaust memory by one field, or fill a log.
"""

from __future__ import annotations

import re

LARGEST_REWARD = 1e6
"""Largest absolute reward. Verifiers give 0 to 1; squares and sums over a batch of these stay far from 3.4e38."""
LOWEST_LOGPROB = -1_000.0
"""A token below it was not sampled: the smallest positive float32 probability has a log-prob of -103."""
HIGHEST_LOGPROB = 1e-4
"""A log-prob is 0 at most; this much above it is rounding."""
LONGEST_NAME = 1_024
"""Characters of an id or another name."""
MOST_TRAJECTORIES = 65_536
"""Trajectories of one group."""
HIGHEST_VERSION = 2**53
"""Policy versions and ordinals stay below it: Lua and JSON keep such numbers exact."""
LONGEST_SECONDS = 1e9
"""Thirty years: a longer time is not one."""
LATEST_TIME = 1e11
"""Unix time, seconds: the year 5138."""

_INDEX = re.compile(r"\[\d+\]|\.\d+(?=\.|$)")
_LABEL = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){0,3}")
_FIELDS = frozenset((
    "activations", "admitted_version", "answer", "answered", "attempt", "begin", "begins_anew", "behaviour_logprobs",
    "components",
    "context_token_ids", "counts", "digest", "draining", "drawn", "end", "engine", "engine_version", "expert_ids",
    "experts", "experts_per_token", "failures",
    "finish_reason", "first_token_seconds", "float32_head", "granularity", "group", "group_id", "head", "journey",
    "judged",
    "kept", "kv_cache", "kv_scale", "layers", "max_new_tokens", "message", "min_p", "ordinal", "precision", "prompt_id",
    "prompt_token_ids", "queue",
    "recording", "replica_id", "rewards", "routed", "sample_index", "samples", "sampling", "scales", "schema_version",
    "scores", "seed", "sent", "spans", "staleness", "stop_token_ids", "task", "temperature", "timings", "token_ids",
    "tokens", "top_k", "top_p", "total_seconds", "traceparent", "trajectories", "trajectory", "trajectory_id", "turns",
    "version", "weights",
))  # fmt: skip
OTHER_FIELD = "other"


def field_label(field: str) -> str:
    """The field of a refused record as a metric's label: without indices, and `other` unless all its parts are known.

    `trajectories[3].spans[17].version` is `trajectories.spans.version`. The labels are few, whatever peers send.
    """
    label = _INDEX.sub("", field)
    known = _LABEL.fullmatch(label) is not None and all(part in _FIELDS for part in label.split("."))
    return label if known else OTHER_FIELD
