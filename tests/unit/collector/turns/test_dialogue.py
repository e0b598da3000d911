"""The tokens between two turns: what the template writes there, and never what the policy wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ais.collector.prompts.dialogue import Dialogue, Said, UnstableTemplateError, check_template, sequences_of
from ais.collector.prompts.prompts import Messages
from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer
from ais.collector.settings import PromptSettings
from ais.runtime.process import UnavailableError
from tests.support.turns.chat_templates import TEMPLATES, tokenizer_with

SORT16 = Path(__file__).parents[4] / "examples" / "sort16" / "model"
QUESTION = "What is 1 + 2?"
ANSWERS: list[Messages] = [
    ({"role": "user", "content": "No, think of 3 and 4."},),
    ({"role": "tool", "content": '{"sum": 7}'}, {"role": "user", "content": " And now? \n"}),
]
STABLE = [name for name, template in TEMPLATES.items() if not template.refused]
UNSTABLE = [name for name, template in TEMPLATES.items() if template.refused]


@pytest.fixture
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> PolicyTokenizer:
    return tokenizer_with(TEMPLATES[request.param], tmp_path)


def conversation(tokenizer: PolicyTokenizer, turns: list[str]) -> list[int]:
    """All tokens of a conversation whose turns the policy sampled as those texts, each with its stop token."""
    dialogue = Dialogue(tokenizer, QUESTION)
    stop = tokenizer.tokenizer.eos_token_id
    tokens = dialogue.prompt()
    for turn, answer in zip(turns, ANSWERS, strict=True):
        tokens += [*tokenizer.encode_piece(turn), stop]
        dialogue = dialogue.after(answer)
        tokens += dialogue.tokens_before_next_turn(stop)
    return tokens


def test_there_are_templates_of_at_least_eight_families() -> None:
    assert len(STABLE) >= 8


@pytest.mark.parametrize("tokenizer", STABLE, indirect=True)
def test_a_conversation_has_the_tokens_that_the_template_gives_it_as_a_whole(tokenizer: PolicyTokenizer) -> None:
    check_template(tokenizer, QUESTION, ANSWERS)
    turns = ["3", "7, of course"]
    messages = tokenizer.messages(QUESTION)
    for turn, answer in zip(turns, ANSWERS, strict=True):
        messages += [{"role": "assistant", "content": turn}, *map(dict, answer)]
    assert conversation(tokenizer, turns) == tokenizer.encode_piece(tokenizer.render(messages, then_turn=True))


@pytest.mark.parametrize("tokenizer", STABLE[:3], indirect=True)
@pytest.mark.parametrize("turn", ["", "  ", "\n3\n", "<think>\n1 + 2\n</think>\n\n3", "{{ messages }}", "\ufffd"])
def test_whatever_the_policy_wrote_changes_nothing_between_its_turns(tokenizer: PolicyTokenizer, turn: str) -> None:
    def between(text: str) -> list[int]:
        written = len(tokenizer.encode_piece(text)) + 1
        return conversation(tokenizer, [text, "7"])[len(Dialogue(tokenizer, QUESTION).prompt()) + written :]

    assert between(turn) == between("3")


@pytest.mark.parametrize("tokenizer", STABLE[:1], indirect=True)
def test_a_turn_that_was_cut_off_is_ended_as_the_template_ends_turns(tokenizer: PolicyTokenizer) -> None:
    dialogue = Dialogue(tokenizer, QUESTION).after(ANSWERS[0])
    stop = tokenizer.tokenizer.eos_token_id
    assert dialogue.tokens_before_next_turn(None) == [stop, *dialogue.tokens_before_next_turn(stop)]


@pytest.mark.parametrize("name", UNSTABLE)
def test_a_template_that_does_not_go_on_where_it_stopped_is_refused_with_the_place(name: str, tmp_path: Path) -> None:
    template = TEMPLATES[name]
    with pytest.raises(UnstableTemplateError, match=template.refused):
        check_template(tokenizer_with(template, tmp_path), QUESTION, ANSWERS)


@pytest.mark.parametrize("tokenizer", STABLE[:1], indirect=True)
def test_a_conversation_is_rendered_once_a_turn_and_again_where_its_template_tells_another_time(
    tokenizer: PolicyTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    render, days, rendered = PolicyTokenizer.render, ["Mon ", "Mon ", "Mon ", "Tue ", "Tue ", "Tue "], list[str]()

    def at_a_time(*asked: Any, **further: Any) -> str:
        rendered.append(days.pop(0) + render(*asked, **further))
        return rendered[-1]

    monkeypatch.setattr(PolicyTokenizer, "render", at_a_time)
    dialogue = Dialogue(tokenizer, QUESTION)
    dialogue.prompt()
    told = []
    for number, messages in enumerate((ANSWERS[0], ANSWERS[0], ANSWERS[0]), 1):
        dialogue = dialogue.after(messages)
        told.append(dialogue.tokens_before_next_turn(None))
        assert len(rendered) == (number + 1 if number < 3 else 6)  # the third comes after midnight
    assert told[0] == told[1] == told[2]


def read_by_the_policy(dialogue: Dialogue, turns: list[str], answers: list[Messages]) -> list[tuple[bool, list[int]]]:
    """Whether each turn but the first begins anew, and the sequence so far that it is sampled after."""
    tokenizer = dialogue.tokenizer
    stop = tokenizer.tokenizer.eos_token_id
    tokens, found = dialogue.prompt(), []
    for turn, answer in zip(turns, answers, strict=True):
        tokens += [*tokenizer.encode_piece(turn), stop]
        dialogue = dialogue.after(answer, Said.plainly(turn))
        read = dialogue.next_turn(stop)
        tokens = read.token_ids if read.begins_anew else [*tokens, *read.token_ids]
        found.append((read.begins_anew, list(tokens)))
    return found


words = st.text(st.sampled_from("37 \n"), max_size=4)
policy_turns = st.one_of(words, st.builds("<think>\n{}</think>\n\n{}".format, words, words))
told = st.sampled_from(ANSWERS)


@pytest.mark.parametrize("name", UNSTABLE)
def test_whatever_is_said_the_policy_reads_what_an_unstable_template_writes(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokenizer = tokenizer_with(TEMPLATES[name], tmp_path_factory.mktemp("tokenizer"))

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.tuples(policy_turns, told), min_size=1, max_size=4))
    def check(episode: list[tuple[str, Messages]]) -> None:
        turns, answers = [turn for turn, _ in episode], [answer for _, answer in episode]
        dialogue = Dialogue(tokenizer, QUESTION, may_begin_anew=True, looks_into_turns=True)
        messages = tokenizer.messages(QUESTION)
        before = [*dialogue.prompt()]
        for (anew, tokens), turn, answer in zip(
            read_by_the_policy(dialogue, turns, answers), turns, answers, strict=True
        ):
            messages += [{"role": "assistant", "content": turn}, *map(dict, answer)]
            assert tokens == tokenizer.encode_piece(tokenizer.render(messages, then_turn=True))
            sampled = [*before, *tokenizer.encode_piece(turn), tokenizer.tokenizer.eos_token_id]
            assert anew == (tokens[: len(sampled)] != sampled or len(tokens) == len(sampled))
            before = tokens

    check()


def test_a_template_that_left_turns_out_does_not_go_on_by_chance_where_turns_are_alike(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(TEMPLATES["only the last two turns"], tmp_path)
    dialogue = Dialogue(tokenizer, QUESTION, may_begin_anew=True, looks_into_turns=True)
    found = read_by_the_policy(dialogue, ["", "", ""], [ANSWERS[0]] * 3)
    assert [anew for anew, _ in found] == [False, True, True]


@pytest.mark.parametrize("looks_into_turns", [True, False])
def test_a_turn_goes_on_where_the_template_leaves_what_was_said_and_begins_anew_where_it_does_not(
    looks_into_turns: bool, tmp_path: Path
) -> None:
    tokenizer = tokenizer_with(TEMPLATES["reasoning left out before the last question, as Qwen3"], tmp_path)
    tool: Messages = ({"role": "tool", "content": "7"},)
    user: Messages = ({"role": "user", "content": "Sure?"},)
    dialogue = Dialogue(tokenizer, QUESTION, may_begin_anew=True, looks_into_turns=looks_into_turns)
    turns = ["<think>\n?</think>\n\ncall", "<think>\n!</think>\n\n7", "7", "Yes"]
    found = read_by_the_policy(dialogue, turns, [tool, user, tool, user])
    assert [anew for anew, _ in found] == [False, True, False, False]


def test_what_is_read_again_is_counted(tmp_path: Path) -> None:
    stripped, plain = (
        sequences_of(tokenizer_with(TEMPLATES[name], tmp_path), QUESTION, ANSWERS)
        for name in ("earlier reasoning left out, as Qwen3", "plain turns, as ChatML")
    )
    assert (len(stripped), len(plain)) == (3, 1)
    assert stripped[-1] == plain[0] - 2 * len("<think>\nno\n</think>\n\n")
    assert sum(stripped) > plain[0]


def test_without_a_template_the_words_follow_one_another() -> None:
    tokenizer = open_tokenizer(SORT16, PromptSettings())
    dialogue = Dialogue(tokenizer, "12;").after(({"role": "user", "content": "+"}, {"role": "user", "content": "34"}))
    assert tokenizer.decode_response(dialogue.tokens_before_next_turn(2)) == "+34"


def test_words_that_the_tokenizer_has_no_tokens_for_are_named() -> None:
    tokenizer = open_tokenizer(SORT16, PromptSettings())
    with pytest.raises(UnavailableError, match="cannot encode 'higher'"):
        Dialogue(tokenizer, "12;").after(({"role": "user", "content": "higher"},)).tokens_before_next_turn(2)
