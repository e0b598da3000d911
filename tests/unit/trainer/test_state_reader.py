"""A run directory cannot make the trainer run code: what a training state may name is bounded."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, BytesStorageMetadata, Metadata

from ais.trainer.learning.state_reader import ForeignStateError, StateReader
from ais.trainer.learning.training_state import load_training_state, save_training_state


class Call:
    """Unpickles to the result of a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def trained() -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    masters = {"a.weight": torch.nn.Parameter(torch.ones(3, 2)), "b": torch.nn.Parameter(torch.zeros(4))}
    optimizer = torch.optim.AdamW(masters.values(), lr=0.1)
    torch.stack([parameter.sum() for parameter in masters.values()]).sum().backward()
    optimizer.step()
    return masters, optimizer


@pytest.fixture
def state(tmp_path: Path) -> Path:
    masters, optimizer = trained()
    save_training_state(tmp_path / "state", masters, optimizer).result()
    return tmp_path / "state"


def rewrite(state: Path, change: Callable[[Metadata], object]) -> None:
    index = StateReader(state).read_metadata()
    changed = change(index)
    (state / ".metadata").write_bytes(pickle.dumps(index if changed is None else changed))


@pytest.mark.parametrize("function", [os.system, subprocess.check_call, os.posix_spawn])
def test_a_function_that_the_index_calls_is_refused_by_name_and_not_called(
    state: Path, function: Callable[..., Any], tmp_path: Path
) -> None:
    rewrite(state, lambda _index: Call(function, f"touch {tmp_path}/called"))
    with pytest.raises(ForeignStateError, match=function.__name__):
        load_training_state(state, *trained())
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("function", [builtins.eval, builtins.exec, getattr, torch.load, torch.hub.load])
def test_code_hidden_in_an_entry_is_refused(state: Path, function: Callable[..., Any]) -> None:
    rewrite(state, lambda index: index.state_dict_metadata.update({"masters.b": Call(function, "1")}))
    with pytest.raises(ForeignStateError, match="names"):
        load_training_state(state, *trained())


@pytest.mark.parametrize("name", ["generator", "masters.b", "moments.b.exp_avg"])
def test_an_entry_of_bytes_which_torch_would_unpickle_is_refused(state: Path, name: str) -> None:
    masters, optimizer = trained()
    index = StateReader(state).read_metadata()
    index.state_dict_metadata[name] = BytesStorageMetadata()
    (state / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(ForeignStateError):
        load_training_state(state, masters, optimizer)


@pytest.mark.parametrize("path", ["../elsewhere.distcp", "/etc/passwd", "below/file.distcp"])
def test_an_index_that_leads_out_of_its_directory_is_refused(state: Path, path: str) -> None:
    def lead_away(index: Metadata) -> None:
        for stored in index.storage_data.values():
            stored.relative_path = path

    rewrite(state, lead_away)
    with pytest.raises(ForeignStateError, match="leads out"):
        load_training_state(state, *trained())


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": 1}), pickle.dumps(torch.Size([3]))[:-3]])
def test_an_index_that_is_not_one_is_refused(state: Path, content: bytes) -> None:
    (state / ".metadata").write_bytes(content)
    with pytest.raises(ForeignStateError):
        load_training_state(state, *trained())


def test_what_was_saved_is_loaded(state: Path) -> None:
    expected, _ = trained()
    masters = {name: torch.nn.Parameter(torch.full_like(weight, 7.0)) for name, weight in expected.items()}
    optimizer = torch.optim.AdamW(masters.values(), lr=0.1)
    load_training_state(state, masters, optimizer)
    for name, weight in masters.items():
        assert torch.equal(weight, expected[name])
        assert set(optimizer.state[weight]) == {"step", "exp_avg", "exp_avg_sq"}


def test_what_an_early_python_3_11_saved_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until 3.11.4 a member of an enumeration was pickled as a call of getattr."""
    monkeypatch.setattr(_MEM_FORMAT_ENCODING, "__reduce_ex__", lambda one, _protocol: (getattr, (type(one), one.name)))
    masters, optimizer = trained()
    save_training_state(tmp_path / "state", masters, optimizer).result()
    assert b"getattr" in (tmp_path / "state" / ".metadata").read_bytes()
    load_training_state(tmp_path / "state", *trained())


@pytest.mark.parametrize("arguments", [(Path, "write_text"), (_MEM_FORMAT_ENCODING, "__class__"), (int, "from_bytes")])
def test_getattr_of_anything_but_a_member_is_refused(state: Path, arguments: tuple[Any, str]) -> None:
    rewrite(state, lambda index: index.state_dict_metadata.update({"masters.b": Call(getattr, *arguments)}))
    with pytest.raises(ForeignStateError, match="names"):
        load_training_state(state, *trained())
