"""The fleet, from the trainer that sees it to the console that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ais.console.fleet import NOTHING, fleet
from ais.contracts.registry import ReplicaRecord
from ais.contracts.sampling import Precision
from ais.launcher.directory.run_directory import RunDirectory
from ais.trainer.mismatch import ReplicaMismatch
from ais.trainer.weights.fleet_file import FleetFile


def record(name: str, version: int, running: int, **probe: float) -> ReplicaRecord:
    return ReplicaRecord(
        replica_id=name, grpc_address="127.0.0.1:1", http_url="http://127.0.0.1:2", engine="torch",
        precision=Precision(), model_type="qwen3", vocab_size=1, parameter_count=1, policy_version=version,
        policy_digest="", ready=True, slots=8, running_sequences=running, waiting_sequences=0, **probe,
    )  # fmt: skip


async def test_what_the_trainer_sees_of_its_replicas_is_what_the_console_shows(tmp_path: Path) -> None:
    path, written = RunDirectory(tmp_path).fleet, FleetFile(tmp_path)
    assert fleet(path) == NOTHING
    written.measured({("one", "e4m3"): ReplicaMismatch(tokens=17, log_ratio_abs_mean=0.25, ess_ratio=0.9)})
    await written.show([record("one", 7, 3, probe_gap=0.01, probe_allowed=0.05), record("two", 6, 0)], 7)
    told = fleet(path)
    assert told["version"] == 7
    one, two = told["replicas"]
    precision = {"engine": "torch", "precision": str(Precision()), "ready": True, "slots": 8, "waiting": 0}
    measured = {"probe_gap": 0.01, "probe_allowed": 0.05, "tokens": 17, "log_ratio_abs_mean": 0.25}
    assert one == {"replica_id": "one", "version": 7, "running": 3, **precision, **measured}
    assert two == {"replica_id": "two", "version": 6, "running": 0, **precision}


async def test_a_fleet_that_has_just_been_written_is_not_written_again_until_the_trainer_ends(tmp_path: Path) -> None:
    written = FleetFile(tmp_path)
    await written.show([record("one", 7, 3)], 7)
    await written.show([record("one", 8, 3)], 8)
    assert fleet(RunDirectory(tmp_path).fleet)["version"] == 7
    await written.end()
    assert fleet(RunDirectory(tmp_path).fleet)["version"] == 8


@pytest.mark.parametrize("content", ["", "[]", "7", '{"time": 1}', "\x00"])
def test_a_file_that_is_none_of_ours_is_no_fleet(content: str, tmp_path: Path) -> None:
    path = RunDirectory(tmp_path).fleet
    path.write_text(content)
    assert fleet(path) == NOTHING


async def test_a_disk_that_takes_nothing_ends_no_trainer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await FleetFile(tmp_path / "missing").show([record("one", 7, 3)], 7)
    assert "cannot be written" in caplog.text
