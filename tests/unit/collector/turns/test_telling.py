"""What can be told of an answer while it is sampled: it never differs from what the whole answer turns out to say."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.collector.episodes.saying import said_by
from ais.collector.episodes.telling import Telling
from ais.collector.exercise import Exercise
from ais.collector.judging.harness.answers import Piece
from ais.collector.judging.harness.streaming import Letterbox
from ais.collector.prompts.growing import INCOMPLETE, OVERLAP, WINDOW, GrowingText
from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer
from ais.collector.replicas.progress import SampledTokens
from ais.collector.settings import PromptSettings
from ais.contracts.routing.routed import RoutedExperts
from ais.contracts.sampling import FinishReason
from tests.support.records import trajectory_of
from tests.support.tokenizer_families import families
from tests.support.turns.chat_templates import TEMPLATES, tokenizer_with

CALL = '<tool_call>{"name": "price", "arguments": {"of": "tea"}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "price", "parameters": {"type": "object", "properties": {}}}}]
FAMILIES = families()


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PolicyTokenizer:
    directory = tmp_path_factory.mktemp("family") / "model"
    opened = open_tokenizer(FAMILIES[request.param].write(directory), PromptSettings(use_chat_template=False))
    opened.tokenizer.chat_template = ""
    return opened


@pytest.fixture(scope="module")
def bytes_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PolicyTokenizer:
    """Most characters beyond ASCII are several tokens."""
    return tokenizer_with(TEMPLATES["tools told in turns of a user, as Hermes"], tmp_path_factory.mktemp("model"))


@given(data=st.data(), size=st.integers(1, 40))
def test_text_grows_by_whole_characters_and_is_the_same_in_the_end(
    tokenizer: PolicyTokenizer, data: st.DataObject, size: int
) -> None:
    """Whatever is sampled: also tokens that no text would be cut into, bytes that are no character, special tokens."""
    length = data.draw(st.sampled_from((1, 5, WINDOW - OVERLAP, 3 * WINDOW)))
    drawn = data.draw(st.randoms(use_true_random=False))
    tokens = [drawn.randrange(len(tokenizer.tokenizer)) for _ in range(length)]
    growing = GrowingText(tokenizer.decode_response, tokenizer.byte_tokens)
    pieces = [growing.grown(tokens[begin : begin + size]) for begin in range(0, length, size)]
    whole = tokenizer.decode_response(tokens)
    assert whole.startswith("".join(pieces))
    assert "".join([*pieces, growing.ended(tokens)]) == growing.shown == whole
    if tokens[-1] not in tokenizer.byte_tokens:
        assert "".join(pieces).rstrip(INCOMPLETE) == whole.rstrip(INCOMPLETE)


def test_a_character_is_shown_when_its_last_byte_has_come_and_bytes_that_are_none_in_the_end(
    bytes_tokenizer: PolicyTokenizer,
) -> None:
    first, *others = bytes_tokenizer.encode_piece("🦊")
    assert others
    growing = GrowingText(bytes_tokenizer.decode_response)
    assert growing.grown([first]) == ""
    assert growing.grown(others) == "🦊"
    broken = GrowingText(bytes_tokenizer.decode_response)
    assert broken.grown([first]) == ""
    assert broken.ended([first]) == INCOMPLETE


def test_a_long_text_is_not_decoded_again_and_again(bytes_tokenizer: PolicyTokenizer) -> None:
    decoded = []
    growing = GrowingText(lambda tokens: decoded.append(len(tokens)) or bytes_tokenizer.decode_response(tokens))
    tokens = bytes_tokenizer.encode_piece("The quick brown 狐 jumps. " * 200)
    for token in tokens:
        growing.grown([token])
    assert growing.shown == bytes_tokenizer.decode_response(tokens)
    assert max(decoded) < 2 * WINDOW


PARTS = st.sampled_from(
    [
        "a",
        " ",
        "\n",
        "東",
        "🦊",
        "<",
        "<tool",
        "<tool_call>",
        "</tool_call>",
        CALL,
        "{}",
        "STOP",
        "ST",
        "OP",
        "\nObs",
        "<|begin|>",
    ]
)


@given(
    parts=st.lists(PARTS, max_size=8),
    stops=st.sampled_from([(), ("STOP",), ("STOP", "TO"), ("\nObs", "O"), ("🦊",), ("aa", "<")]),
    may_call=st.booleans(),
    stopped=st.booleans(),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
)
def test_what_is_told_is_the_beginning_of_what_is_said_whatever_comes_next(
    bytes_tokenizer: PolicyTokenizer,
    parts: list[str],
    stops: tuple[str, ...],
    may_call: bool,
    stopped: bool,
    sizes: list[int],
) -> None:
    tokens = [*bytes_tokenizer.encode_piece("".join(parts)), *bytes_tokenizer.encode_piece("<|end|>")]
    logprobs = [-0.25 * (1 + place) for place in range(len(tokens))]
    reason = FinishReason.STOP if stopped else FinishReason.LENGTH
    response = trajectory_of(tokens, behaviour_logprobs=logprobs, finish_reason=reason)
    exercise = Exercise(cast(Any, None), bytes_tokenizer, cast(Any, None))
    said = said_by(exercise, response, stops, TOOLS if may_call else None)
    recorded = said.response.token_ids.tolist()
    telling = Telling(bytes_tokenizer, stops, may_call=may_call, wants_logprobs=True)
    text, told, begin = "", list[int](), 0
    for number in range(len(tokens)):
        end = begin + sizes[number % len(sizes)]
        piece = telling.more(SampledTokens(tokens[begin:end], logprobs[begin:end]))
        text, told, begin = text + piece.text, [*told, *piece.token_ids], end
        assert said.text.startswith(text)
        assert recorded[: len(told)] == told
        assert piece.logprobs is not None
        assert [one for _, one in piece.logprobs] == logprobs[len(told) - len(piece.token_ids) : len(told)]
        assert bytes_tokenizer.decode_response(told) == text[: len(bytes_tokenizer.decode_response(told))]
        assert telling.is_begun_by(said.text, len(recorded))
        if end >= len(tokens):
            break
    if not stops and not may_call:
        assert text == said.text
    assert not telling.is_begun_by("", len(recorded)) or not text


def test_a_text_waits_while_it_may_be_the_beginning_of_a_stop_and_no_longer(bytes_tokenizer: PolicyTokenizer) -> None:
    telling = Telling(bytes_tokenizer, ["\nObservation:"], may_call=False, wants_logprobs=False)

    def told(text: str) -> str:
        return telling.more(SampledTokens(tokens := bytes_tokenizer.encode_piece(text), [-1.0] * len(tokens))).text

    assert [told(text) for text in ("Look", ".\n", "Ob", "jects", "\nObservation", ":", " none")] == [
        *("Look", ".", "", "\nObjects", "", "", "")
    ]


def test_white_space_waits_where_a_call_may_follow(bytes_tokenizer: PolicyTokenizer) -> None:
    telling = Telling(bytes_tokenizer, [], may_call=True, wants_logprobs=False)

    def told(text: str) -> str:
        return telling.more(SampledTokens(tokens := bytes_tokenizer.encode_piece(text), [-1.0] * len(tokens))).text

    assert [told(text) for text in ("\n\nLet", " ", "me see \n", "<tool", "_call>{")] == [
        "\n\nLet",
        "",
        " me see",
        "",
        "",
    ]


async def test_what_a_client_has_not_read_yet_waits_as_one_piece() -> None:
    box = Letterbox()
    for number in range(1000):
        box.put("chatcmpl-1", Piece("a", [number], [("a", -0.5)]))
    await box.news()
    assert box.take() == Piece("a" * 1000, list(range(1000)), [("a", -0.5)] * 1000)
    assert not box.take()


def test_a_response_that_a_stop_cuts_keeps_the_experts_of_what_is_left(bytes_tokenizer: PolicyTokenizer) -> None:
    tokens, prompt = bytes_tokenizer.encode_piece("one STOP two"), 3
    read = np.arange(prompt + len(tokens) - 1, dtype=np.uint8).reshape(-1, 1, 1)
    response = trajectory_of(tokens, routed=RoutedExperts(read, 256))
    said = said_by(Exercise(cast(Any, None), bytes_tokenizer, cast(Any, None)), response, ("STOP",), None)
    assert said.response.routed is not None
    left = prompt + len(said.response.token_ids) - 1
    assert said.response.routed.expert_ids.flatten().tolist() == list(range(left))
