"""A probe travels in a snapshot's metadata unchanged, and nothing malformed gets through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from ais.contracts.trajectory import MalformedRecordError
from ais.contracts.weights.probe import MOST_TOKENS, PROBE_KEY, Probe, decode_probe, encode_probe, read_probe

VOCABULARY = 100
PROBE = Probe(token_ids=((1, 5, 99), (0, 2)), logprobs=((-0.5, -2.25), (0.0,)))
TENSORS = {"a.weight": torch.arange(6).bfloat16().view(2, 3), "b": torch.ones(5)}


@given(st.lists(st.lists(st.tuples(st.integers(0, 99), st.floats(-1e3, 0.0)), min_size=2), min_size=1, max_size=4))
def test_a_probe_comes_back_as_it_was(sequences: list[list[tuple[int, float]]]) -> None:
    probe = Probe(
        token_ids=tuple(tuple(token for token, _ in sequence) for sequence in sequences),
        logprobs=tuple(tuple(logprob for _, logprob in sequence[1:]) for sequence in sequences),
    )
    assert decode_probe(encode_probe(probe), VOCABULARY) == probe


def test_a_probe_is_read_from_a_snapshots_metadata(tmp_path: Path) -> None:
    metadata = {"format": "pt", PROBE_KEY: encode_probe(PROBE)}
    (tmp_path / "snapshot").write_bytes(save(TENSORS, metadata=metadata))
    assert read_probe(tmp_path / "snapshot", VOCABULARY) == PROBE


def test_a_snapshot_of_another_origin_has_no_probe(tmp_path: Path) -> None:
    (tmp_path / "snapshot").write_bytes(save(TENSORS))
    assert read_probe(tmp_path / "snapshot", VOCABULARY) is None


def test_what_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    (tmp_path / "snapshot").write_bytes(bytes(100))
    with pytest.raises(MalformedRecordError, match="expected a safetensors file"):
        read_probe(tmp_path / "snapshot", VOCABULARY)


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("{", "probe", "JSON"),
        ({"token_ids": [[1, 2]]}, "probe.logprobs", "required"),
        ({"token_ids": [[1, 2.5]], "logprobs": [[-1.0]]}, "probe.token_ids.0.1", "integer"),
        ({"token_ids": [[1, 2]], "logprobs": [["-1"]]}, "probe.logprobs.0.0", "number"),
        ({"token_ids": [], "logprobs": []}, "probe", "one or more"),
        ({"token_ids": [[1, 2]], "logprobs": [[-1.0], [-1.0]]}, "probe", "got 1 and 2"),
        ({"token_ids": [[1]], "logprobs": [[]]}, "probe.logprobs[0]", "two tokens or more"),
        ({"token_ids": [[1, 2]], "logprobs": [[-1.0, -1.0]]}, "probe.logprobs[0]", "got 2 tokens and 2"),
        ({"token_ids": [[1, 2], [3, 100]], "logprobs": [[-1.0]] * 2}, "probe.token_ids[1]", "vocabulary of 100"),
        ({"token_ids": [[-1, 2]], "logprobs": [[-1.0]]}, "probe.token_ids[0]", "token id -1"),
        ({"token_ids": [[1, 2]], "logprobs": [[0.25]]}, "probe.logprobs[0]", "got 0.25"),
        ({"token_ids": [[1, 2]], "logprobs": [[float("nan")]]}, "probe.logprobs[0]", "got nan"),
        ({"token_ids": [[1, 2]], "logprobs": [[float("-inf")]]}, "probe.logprobs[0]", "got -inf"),
        ({"token_ids": [[1] * 513] * 2, "logprobs": [[-1.0] * 512] * 2}, "probe.token_ids", f"up to {MOST_TOKENS}"),
    ],
)
def test_a_malformed_probe_is_refused_by_field(text: str | dict[str, object], field: str, reason: str) -> None:
    with pytest.raises(MalformedRecordError, match=reason) as refusal:
        decode_probe(text if isinstance(text, str) else json.dumps(text), VOCABULARY)
    assert refusal.value.field == field


def test_a_cut_probe_keeps_the_first_tokens_and_their_logprobs() -> None:
    probe = Probe(((1, 2, 3, 4), (5, 6)), ((-0.1, -0.2, -0.3), (-0.4,)))
    assert probe.cut(3) == Probe(((1, 2, 3), (5, 6)), ((-0.1, -0.2), (-0.4,)))
    assert probe.cut(9) == probe
