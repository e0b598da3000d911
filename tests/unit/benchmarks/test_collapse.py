"""The claims of docs/collapse.md, held to the runs that were recorded, and to Adam's own arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.tiny_grpo.report import Record, read

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
RECORDS = read(RESULTS / "collapse.jsonl")
FROZEN = {(record["policy"], record["compute"]): record for record in read(RESULTS / "collapse_frozen.jsonl")}


def lost(record: Record) -> bool:
    return bool(record["curve"][-1]["p"] == 0.0)


LOST = [pytest.param(record, id=f"{record['name']}-{record['seed']}") for record in RECORDS if lost(record)]


def last_signal(record: Record) -> int:
    """The last step whose batch had a group with rewards that differ."""
    return max(step["step"] for step in record["steps"] if step.get("norm", 0.0) > 0.0)


def right_share(step: Record) -> float:
    tokens = {name: found["tokens"] for name, found in step["classes"].items()}
    return float(tokens["right"] / sum(tokens.values()))


def test_runs_are_recorded_that_were_lost() -> None:
    assert LOST


@pytest.mark.parametrize("record", LOST)
def test_a_lost_run_ends_in_batches_without_any_signal(record: Record) -> None:
    after = record["steps"][last_signal(record) + 1 :]
    assert len(after) > 5
    assert all(step["norm"] == step["reward"] == 0.0 for step in after)


@pytest.mark.parametrize("record", LOST)
def test_the_sampler_runs_dry_while_the_mismatch_is_what_it_was(record: Record) -> None:
    steps, end = record["steps"], last_signal(record)
    begun, dried = (sum(step["informative"] for step in part) / 5 for part in (steps[:5], steps[end - 4 : end + 1]))
    assert dried < 0.5 * begun
    before, late = (sum(step["D"] for step in part) / 5 for part in (steps[:5], steps[end - 4 : end + 1]))
    assert late < 1.3 * before


@pytest.mark.parametrize("record", LOST)
def test_steps_do_not_shrink_as_their_gradients_do(record: Record) -> None:
    steps, end = record["steps"], last_signal(record)
    gradient, moved = (steps[end][key] / max(step[key] for step in steps[end - 10 : end]) for key in ("norm", "moved"))
    assert gradient < 0.2
    assert moved > 0.4


@pytest.mark.parametrize("record", LOST)
def test_the_policy_goes_on_changing_for_the_worse_without_a_gradient(record: Record) -> None:
    end = last_signal(record)
    after = record["steps"][end + 1 :]
    assert sum(step["moved"] for step in after) > 5 * record["steps"][end]["moved"]
    assert right_share(after[-1]) < 0.8 * right_share(record["steps"][end])


def test_token_ratios_point_the_right_way_at_policies_about_to_be_lost() -> None:
    for step in (20, 30):
        record = FROZEN[f"tis_token-0/{step}", "float32"]
        assert record["tis_token"]["cosine"] > record["none"]["cosine"] + 0.2 > 0.6
    before, late = (FROZEN[f"tis_token-0/{step}", "float32"]["tis_token"] for step in (20, 30))
    assert late["length"] < 0.2
    assert late["batches"] < 0.5 * before["batches"]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_uncorrected_rollouts_do_not_point_where_bf16_ones_do_at_the_start(compute: str) -> None:
    record = FROZEN["start", compute]
    assert record["none"]["cosine"] < 0.0 < record["tis_token"]["cosine"] < record["ais"]["cosine"]


def test_the_same_run_with_steps_in_proportion_to_the_signal_was_not_lost() -> None:
    plain, paced = (next(one for one in RECORDS if one["name"] == name) for name in ("tis_token", "tis_token+signal"))
    assert plain["seed"] == paced["seed"]
    at = {record["name"]: {point["step"]: point["p"] for point in record["curve"]} for record in (plain, paced)}
    assert at["tis_token"][40] == 0.0
    assert at["tis_token+signal"][40] > at["tis_token+signal"][10] > 0.1


def test_adam_walks_on_for_about_eleven_of_its_steps_when_gradients_end() -> None:
    """Its mean of gradients fades by .9 a step, and the root of its mean of squares by .975: in all .923."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    places = []
    for step in range(300):
        weight.grad = torch.full((1,), 1.0 if step < 200 else 0.0)
        optimizer.step()
        places.append(-float(weight.detach()))
    stride = places[199] - places[198]
    assert (places[-1] - places[199]) / stride == pytest.approx(11.0, abs=1.5)
    assert places[205] - places[204] == pytest.approx(0.9 / 0.95**0.5 * (places[204] - places[203]), rel=1e-3)
