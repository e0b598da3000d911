"""The matrix of models: what its table and its reasons say of the cells."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.models.measure import TWO_RANKS, Cell
from benchmarks.models.report import head, reasons, rows
from benchmarks.models.routing import Replay
from benchmarks.models.routing import rows as routing_rows

SERVED = Cell("Qwen3", "vllm", "bf16", log_ratio=0.00123, k3=4.56e-6, restored=True, delta_share=0.0212)
NO_KERNEL = "vLLM cannot serve /tmp/tmpab_c1/model here: no kernel. Use a GPU"


def test_a_family_has_a_row_of_its_formats_and_what_was_not_tried_stays_empty() -> None:
    found = [SERVED, Cell("Qwen3", "vllm", "int8", refused="no VNNI"), Cell("Llama", "torch", "bf16")]
    assert rows(found, "vllm") == [("Qwen3", "0.00123, 4.6e-06", "", "refused", "", "the same", "", "2.1%")]


def test_log_probs_that_do_not_come_back_in_one_format_are_told() -> None:
    (row,) = rows([SERVED, Cell("Qwen3", "vllm", "fp8", restored=False)], "vllm")
    assert row[5] == "**differs**"


def test_what_two_ranks_published_is_told_apart_from_what_one_did() -> None:
    cell = replace(SERVED, format=TWO_RANKS, restored=False, ranks_alike=True, ranks_apart=0.0312)
    (row,) = rows([SERVED, cell], "vllm")
    assert row[5:7] == ("the same", "the same, 3.1%, **differs**")
    assert len(row) == len(head("vllm"))


def test_a_reason_is_told_once_with_all_that_it_refuses_and_without_the_place_of_the_day() -> None:
    found = [
        Cell("Qwen3-MoE", "vllm", "fp8", refused=NO_KERNEL),
        Cell("GPT-OSS", "vllm", "fp8", refused=NO_KERNEL.replace("ab_c1", "xyz")),
    ]
    assert reasons(found, "vllm") == ["- Qwen3-MoE, GPT-OSS in FP8: vLLM cannot serve MODEL here: no kernel. Use a GPU"]


def test_routing_replay_has_a_row_for_each_family_and_format() -> None:
    found = [Replay("Qwen3-MoE", "bf16", 0.0123, 1.5e-3, 0.0111, 1.2e-4, 0.00436, 1024)]
    assert routing_rows(found) == [("Qwen3-MoE", "BF16", "0.0123, 0.0015", "0.0111, 0.00012", "0.44%")]
