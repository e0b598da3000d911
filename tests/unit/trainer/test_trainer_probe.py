"""The probe a step sends with its version: the same tokens every time, under exactly the weights it travels with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ais.contracts.weights.probe import Probe, read_probe
from ais.runtime.settings import RunSettings
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.learning.probe import probe_sequences, take_probe
from ais.trainer.policy.policy import Policy
from ais.trainer.weights.snapshot import Snapshot
from ais_core.settings import CorrectionSettings, MixingSettings
from tests.support.trainer_groups import make_group
from tests.support.trainer_settings import trainer_settings

VOCABULARY = 22
FAR_APART = CorrectionSettings(mixing=MixingSettings(mismatch_limit=100.0))
"""The batches are all of the first policy: later ones would not be trusted, and not be trained."""
BATCHES = [[make_group(ordinal, samples=2, seed=batch) for ordinal in range(3)] for batch in range(3)]


def steps(**settings: object) -> Iterator[Snapshot]:
    """The snapshots of a learner that trains one batch after another, far enough each time to be told apart."""
    trainer = trainer_settings(warmup_steps=0, learning_rate=1e-2, **settings)
    learner = Learner(Policy(demo_model(seed=2)), RunSettings(steps=100), trainer, FAR_APART)
    for groups in BATCHES:
        yield learner.step(groups, PhaseClock()).snapshot


def probe_of(snapshot: Snapshot) -> Probe | None:
    return read_probe(snapshot.files[0].path, VOCABULARY)


def mean_gap(probe: Probe, model: torch.nn.Module) -> float:
    """Through the library's own BF16 forward, one sequence at a time, without padding."""
    gaps = []
    for token_ids, logprobs in zip(probe.token_ids, probe.logprobs, strict=True):
        tokens = torch.tensor(token_ids)
        with torch.no_grad():
            expected = torch.log_softmax(model(input_ids=tokens[None, :-1]).logits[0].float(), -1)
        gaps.append((expected.gather(1, tokens[1:, None])[:, 0] - torch.tensor(logprobs)).abs())
    return float(torch.cat(gaps).mean())


def test_the_saved_checkpoint_has_the_log_probs_of_its_own_weights(tmp_path: Path) -> None:
    config = demo_model(seed=2).config
    config.dtype = torch.bfloat16
    models: list[torch.nn.Module] = []
    probes: list[Probe] = []
    for snapshot in steps():
        directory = tmp_path / f"version-{snapshot.version}"
        config.save_pretrained(directory)
        snapshot.place_in(directory)
        models.append(AutoModelForCausalLM.from_pretrained(directory))
        probe = read_probe(directory / "model.safetensors", VOCABULARY)
        assert probe is not None
        probes.append(probe)
    assert all(mean_gap(probe, model) < 0.01 for probe, model in zip(probes, models, strict=True))
    assert all(mean_gap(later, model) > 0.1 for later, model in zip(probes[1:], models, strict=False)), "the one before"


def test_the_sequences_come_from_the_first_batch_and_stay() -> None:
    probes = [probe_of(snapshot) for snapshot in steps(sequences=4, tokens=7)]
    expected = [
        [*group.prompt_token_ids.tolist(), *group.trajectories[index].token_ids.tolist()][:7]
        for group, index in zip([*BATCHES[0], BATCHES[0][0]], (0, 0, 0, 1), strict=True)
    ]
    for probe in probes:
        assert probe is not None
        assert list(map(list, probe.token_ids)) == expected


def test_fewer_trajectories_than_wanted_are_all_taken() -> None:
    assert len(probe_sequences(BATCHES[0], sequences=16, tokens=64)) == 6


def test_a_probe_changes_nothing_of_the_training_and_is_the_same_again() -> None:
    probed, again, plain = (list(steps(sequences=count)) for count in (4, 4, 0))
    assert [snapshot.digest for snapshot in probed] == [snapshot.digest for snapshot in again]
    for with_probe, without in zip(probed, plain, strict=True):
        tensors = load_file(without.files[0].path)
        for name, tensor in load_file(with_probe.files[0].path).items():
            assert torch.equal(tensor, tensors[name]), name


def test_none_is_sent_when_none_is_wanted() -> None:
    assert probe_of(next(steps(sequences=0))) is None


def test_none_is_sent_when_the_weights_give_no_finite_log_probs(caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy(demo_model(seed=2))
    with torch.no_grad():
        policy.masters["lm_head.weight"].fill_(torch.nan)
    assert take_probe(policy, ((1, 2, 3),)) is None
    assert "not finite" in caplog.text
