"""Every name that the settings and the command line offer has a test that runs it in the real code.

The tables name the test. A choice that is added without a test fails here, and so does a test that is renamed, or no
longer mentions what it is said to run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer

from ais.cli import app
from ais.runtime.reading import choices_of, field_types, members_of
from ais.settings import Settings

TESTS = Path(__file__).parents[1]
COVERED = ("collector.", "trainer.objective.", "tracking.")
"""Sections whose choices are all in the table."""
ALIKE = "collector.task.sources."
"""A source of a mixture has the settings of a task."""

STEP = "unit/trainer/learning/test_objectives_in_the_step.py::"
TASKS = "unit/collector/tasks/"
JUDGING = "integration/collector/test_judging.py::test_a_failed_judgement_"
GAMED = "integration/collector/test_gamed_answers.py::test_no_verifier_is_gamed"
EPISODES = "integration/collector/test_episodes.py::"
ANEW = "integration/collector/test_beginning_anew.py::"
PROGRAMS = "integration/collector/programs/test_programs.py::"
HARNESS = "integration/collector/test_harness.py::"
OUTSIDE = "integration/collector/programs/test_outside.py::"
VERIFIERS = "integration/collector/test_verifiers_package.py::"
TRACKING = "integration/launcher/test_tracking.py::"
ALL = "*"
"""A choice that is not in the table by its own name."""

CHOICES: Mapping[str, Mapping[str, str]] = {
    "collector.task.recipe": {ALL: TASKS + "test_recipes.py::test_a_recipe_asks_reads_the_answer_and_judges"},
    "collector.task.name": {
        "sort": "unit/collector/test_tasks.py::test_a_sort_prompt_is_answered_by_its_sorted_digits",
        "sort_swaps": "unit/collector/test_worked_tasks.py::test_the_last_step_is_judged_or_by_setting_the_whole_work",
        "sum_chain": "unit/collector/test_worked_tasks.py::test_the_last_step_is_judged_or_by_setting_the_whole_work",
        "jsonl": TASKS + "test_json_files.py::test_an_epoch_has_every_prompt_once_and_the_next_has_another_order",
        "parquet": "e2e/test_killed_run.py::test_what_is_trained_is_the_same_after_kills_of_everything",
        "huggingface": TASKS + "test_stored_datasets.py::test_a_dataset_that_was_saved_to_disk_is_read_by_split",
        "guess_number": "unit/collector/turns/test_environments.py::"
        "test_the_task_thinks_of_every_number_and_the_same_ones_again",
        "calculations": "unit/collector/turns/test_environments.py::"
        "test_the_answers_of_the_calculations_are_the_calculators_and_no_calculation_is_in_two_splits",
        "reasoning_gym": GAMED,
        "python": TASKS + "test_own_tasks.py::test_a_table_of_the_users_is_gone_through_by_epochs_and_split",
        "verifiers": VERIFIERS + "test_tasks_that_ask_the_same_are_told_apart_by_their_keys",
        "mixture": "e2e/test_killed_run.py::test_what_is_trained_is_the_same_after_kills_of_everything",
    },
    "collector.task.too_long": {
        ALL: "integration/collector/test_check.py::test_a_prompt_too_long_for_the_replicas_is_found_in_either_file"
    },
    "collector.task.environment.name": {
        "guess_number": "e2e/test_guess_number_run.py::test_a_run_of_episodes_ends_well_and_evaluates_both_policies",
        "calculator": "unit/collector/turns/test_environments.py::"
        "test_a_calculator_runs_what_is_asked_for_and_judges_the_answer_after_it",
        "retry": EPISODES + "test_feedback_is_given_until_the_verifier_is_content",
        "python": "unit/collector/turns/test_environments.py::"
        "test_a_class_of_the_users_is_found_in_its_directory_and_called_with_its_parameters",
        "harness": HARNESS + "test_the_verifiers_of_the_source_may_judge_the_last_turn",
        "outside": OUTSIDE + "test_an_agent_that_knows_openais_client_alone_plays_what_the_verifiers_judge",
        "verifiers": VERIFIERS + "test_one_process_plays_all_groups_and_is_ended_with_the_exercise",
    },
    "collector.task.environment.unstable_template": {
        "begin_anew": ANEW + "test_the_log_probs_of_every_turn_are_those_of_the_sequence_that_it_was_sampled_in",
        "refuse": ANEW + "test_it_is_refused_where_the_settings_say_so",
    },
    "collector.task.environment.branches": {
        "longest": PROGRAMS + "test_of_an_episodes_branches_the_longest_is_trained_or_all_of_them",
        "all": PROGRAMS + "test_of_an_episodes_branches_the_longest_is_trained_or_all_of_them",
    },
    "collector.task.environment.judged_by": {
        "program": HARNESS + "test_programs_on_openais_client_play_a_group_token_for_token",
        "verifiers": HARNESS + "test_the_verifiers_of_the_source_may_judge_the_last_turn",
    },
    "collector.task.verifier": {ALL: GAMED},
    "collector.task.reward.verifier": {ALL: GAMED},
    "collector.task.reward.extract": {
        ALL: "unit/collector/test_reward_verifiers.py::test_the_last_answer_is_the_answer"
    },
    "collector.judging.on_failure": {
        "zero": JUDGING + "stands_in_the_group_with_its_reason",
        "again": JUDGING + "asks_for_the_group_again_where_that_is_asked_for",
        "end": JUDGING + "ends_the_run_where_that_is_asked_for",
    },
    "trainer.objective.name": {ALL: STEP + "test_on_the_first_update_every_objective_has_the_policy_gradient"},
    "trainer.objective.advantage": {ALL: STEP + "test_every_advantage_and_aggregation_has_its_closed_form"},
    "trainer.objective.aggregation": {ALL: STEP + "test_every_advantage_and_aggregation_has_its_closed_form"},
    "trainer.objective.dppo.divergence": {
        "total_variation": STEP + "test_the_share_of_bounded_tokens_is_reported",
        "kl": STEP + "test_the_cut_into_microbatches_changes_no_objective",
    },
    "trainer.objective.reference.policy": {
        "none": STEP + "test_on_the_first_update_every_objective_has_the_policy_gradient",
        "start": STEP + "test_a_reference_survives_a_resume_to_the_bit",
        "average": STEP + "test_a_reference_survives_a_resume_to_the_bit",
        "directory": STEP + "test_a_reference_from_a_directory_is_that_model",
    },
    "trainer.objective.reference.estimator": {ALL: STEP + "test_the_penalty_keeps_the_policy_near_its_reference"},
    "trainer.objective.reference.place": {ALL: STEP + "test_the_penalty_keeps_the_policy_near_its_reference"},
    "tracking.trackers": {ALL: TRACKING + "test_a_tracker_has_what_the_files_have_after_a_kill_and_a_rewind"},
    "tracking.wandb.mode": {
        "online": TRACKING + "test_a_server_that_never_answers_delays_no_run_and_what_it_lacks_is_told",
        "offline": TRACKING + "test_a_tracker_has_what_the_files_have_after_a_kill_and_a_rewind",
    },
}

BY_HAND = "e2e/test_secrets.py::test_a_service_started_by_hand_hides_the_password_that_it_was_given"
IN_ANY_LOCALE = "unit/test_encodings.py::"
ATTENDED = "integration/launcher/test_attended_run.py::"
COMMANDS: Mapping[str, str] = {
    "run": "integration/launcher/test_services.py::test_a_run_trains_evaluates_both_policies_and_reports",
    "resume": "e2e/test_killed_run.py::test_what_is_trained_is_the_same_after_kills_of_everything",
    "chaos": "e2e/test_chaos.py::test_a_run_under_fire_ends_by_itself_and_has_consumed_every_group_once",
    "console": "integration/console/test_console_server.py::test_a_run_that_is_not_there_is_told",
    "trace": "integration/launcher/test_trace_command.py::test_the_command_ends_with_the_code_of_what_is_wrong",
    "plan": "unit/planning/test_plan_records.py::"
    "test_the_command_names_the_source_of_every_assumption_and_refuses_what_it_does_not_know",
    "agent": OUTSIDE + "test_an_agent_that_the_collector_refuses_ends_and_says_why",
    **dict.fromkeys(("rollout", "collector", "trainer"), BY_HAND),
    "compare": "integration/comparison/test_systems.py::"
    "test_a_system_that_was_interrupted_goes_on_and_is_scored_in_both_precisions",
    "eval": "integration/launcher/test_services.py::test_a_saved_model_is_scored_on_held_out_prompts",
    "chat": "integration/launcher/test_chat.py::test_each_line_is_answered_and_the_end_of_the_input_ends_everything",
    "scale": "integration/launcher/test_run.py::test_a_run_is_scaled_while_it_goes_on",
    "data": "integration/collector/test_preview.py::"
    "test_each_source_is_shown_with_its_counts_and_its_first_prompts_rendered",
    "config": IN_ANY_LOCALE + "test_settings_are_printed_in_utf_8_in_any_locale",
    "report": IN_ANY_LOCALE + "test_a_report_is_written_and_its_path_printed_in_any_locale",
    "warmstart": "integration/launcher/test_warming.py::test_a_warm_start_that_fails_says_why_and_leaves_no_model",
    "deadletter": "integration/launcher/test_deadletter_command.py::"
    "test_letters_go_back_where_they_are_wanted_and_the_others_say_why_not",
    "track": TRACKING + "test_ais_track_tells_several",
    "metrics": "unit/test_metrics_catalogue.py::test_the_command_prints_the_document",
    "init": "unit/test_beginnings.py::test_the_command_lists_them_writes_one_and_never_writes_over_it",
    "secrets": "unit/test_issuing.py::test_the_command_tells_what_it_made_and_shows_no_secret",
    **dict.fromkeys(("prepare", "conclude"), ATTENDED + "test_services_that_start_one_by_one_leave_what_a_run_leaves"),
    "bench": "integration/benchmarks/test_every_benchmark.py::test_a_benchmark_ends_with_its_figures_as_a_line_of_json",
}


def fields_of(owner: Any) -> Mapping[str, Any]:
    """The fields of a pydantic model or dataclass, which know their defaults."""
    return getattr(owner, "model_fields", None) or getattr(owner, "__dataclass_fields__", {})


def choices(owner: Any = Settings, prefix: str = "") -> Iterator[tuple[str, str, bool]]:
    """Every listed value of every setting: dotted key, value, whether it is the default."""
    for name, annotation in field_types(owner).items():
        default = getattr(fields_of(owner).get(name), "default", None)
        for value in choices_of(annotation):
            yield prefix + name, value, value == default
        for member in members_of(annotation):
            for part in get_args(member) if get_origin(member) is tuple else (member,):
                for one in members_of(part):
                    yield from choices(one, f"{prefix}{name}.")


OFFERED = sorted({one for one in choices() if one[0].startswith(COVERED) and not one[0].startswith(ALIKE)})


@cache
def definitions(file: Path) -> Mapping[str, str]:
    """The source of each name that a module defines."""
    text = file.read_text("utf-8")
    found: dict[str, str] = {}
    for node in ast.parse(text).body:
        names = [getattr(node, "name", None), *(getattr(target, "id", None) for target in getattr(node, "targets", ()))]
        names.append(getattr(getattr(node, "target", None), "id", None))
        lines = text.splitlines()
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
        found |= {name: "\n".join(lines[first - 1 : node.end_lineno]) for name in names if name}
    return found


def reached(file: Path, test: str) -> str:
    """The source of a test, and of what it uses of its module."""
    known, used, ahead = definitions(file), set[str](), [test]
    while ahead:
        name = ahead.pop()
        used.add(name)
        ahead += [word for word in set(re.findall(r"\w+", known[name])) & known.keys() if word not in used]
    return "\n".join(known[name] for name in sorted(used))


def mentions(source: str, value: str) -> bool:
    """Whether a test's source has the value as a text or part of an override, or goes through all values of a type."""
    return bool(re.search(rf"""["'=]{re.escape(value)}["'\s,]""", source)) or "get_args(" in source


def assert_it_is_run(place: str, value: str, is_default: bool = False) -> None:
    file, _, test = place.partition("::")
    assert test in definitions(TESTS / file), f"{place} is no test: name the one that runs {value}"
    assert is_default or mentions(reached(TESTS / file, test), value), f"{place} does not mention {value}"


@pytest.mark.parametrize(("key", "value", "is_default"), OFFERED)
def test_a_choice_of_the_settings_has_a_test_that_runs_it(key: str, value: str, is_default: bool) -> None:
    tests = CHOICES.get(key, {})
    assert value in tests or ALL in tests, f"name a test that runs {key} = {value} in the table of this file"
    assert_it_is_run(tests.get(value) or tests[ALL], value, is_default)


def test_the_table_names_nothing_that_is_not_offered() -> None:
    offered = {(key, value) for key, value, _ in OFFERED}
    assert {(key, value) for key, tests in CHOICES.items() for value in tests if value != ALL} <= offered
    assert CHOICES.keys() == {key for key, _ in offered}


@pytest.mark.parametrize("command", typer.main.get_command(app).commands)  # type: ignore[attr-defined]
def test_a_command_has_a_test_that_runs_it(command: str) -> None:
    assert command in COMMANDS, f"name a test that runs ais {command} in the table of this file"
    assert_it_is_run(COMMANDS[command], command)


def test_a_choice_that_no_test_mentions_is_found() -> None:
    place = STEP + "test_the_share_of_bounded_tokens_is_reported"
    assert_it_is_run(place, "gspo")
    with pytest.raises(AssertionError, match="does not mention"):
        assert_it_is_run(place, "rloo")
    with pytest.raises(AssertionError, match="is no test"):
        assert_it_is_run(place + "_elsewhere", "gspo")
