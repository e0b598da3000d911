"""A few of each step's prompts and responses as text, one JSON object a line in `samples.jsonl` of the run's directory.

They are for people: what does the policy write, and what is it rewarded for? Nothing is computed from them.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ais.contracts.trajectory import ScoredGroup, Trajectory
from ais.runtime.files import drop_older_half, rewind_lines

SAMPLES_FILE = "samples.jsonl"
LONGEST_TEXT = 4000
"""Characters kept of a prompt and of a response: the beginning and the end."""
MOST_TOKENS = 256
"""First tokens of a response whose log-ratios are kept."""
LARGEST_FILE = 8 * 1024 * 1024
"""Bytes. When the file has grown beyond them, the older half of its lines goes."""

_INCOMPLETE = "\ufffd"
"""Ends the text of tokens whose last character continues in the next one."""

Decode = Callable[[np.ndarray], str]
"""Token ids int32 [T] -> text, special tokens included."""

logger = logging.getLogger(__name__)


class SampleLog:
    """Writes a step's samples: `per_step` responses drawn from the whole batch, each as likely as any other.

    The keys of a line: step, version (the oldest policy that sampled a token), ordinal (which prompt), prompt and
    response (with special tokens, as the policy read and wrote them; of an episode all turns and what stood between),
    reward, components (its named scores), failures (why a component could not judge it), finish_reason, answer (what
    the verifier compared with). Where they were measured, of the first `MOST_TOKENS` tokens of the response:
    token_lengths (characters), log_ratios (of trainer to rollout, nats; null where the policy did not sample the token)
    and spans (pairs of a version and how many of the sampled tokens it sampled).
    """

    def __init__(self, directory: Path, decode: Decode | None, per_step: int) -> None:
        """Writes nothing without `decode`."""
        self._file = directory / SAMPLES_FILE
        self._decode = decode
        self._per_step = per_step

    def append(
        self, step: int, groups: Sequence[ScoredGroup], log_ratios: Mapping[int, Sequence[float]] | None = None
    ) -> None:
        """Adds the samples of the batch that made `step`. `log_ratios`: of their sampled tokens, by the number of the
        response in the batch."""
        if self._decode is None or not self._per_step:
            return
        responses = _responses(groups)
        with self._file.open("a", encoding="utf-8") as file:
            for number in drawn(step, len(responses), self._per_step):
                group, index = responses[number]
                file.write(self._line(step, group, index, (log_ratios or {}).get(number), self._decode))
            size = file.tell()
        if size > LARGEST_FILE:
            drop_older_half(self._file)

    def _line(
        self, step: int, group: ScoredGroup, index: int, log_ratios: Sequence[float] | None, decode: Decode
    ) -> str:
        trajectory = group.trajectories[index]
        response = shortened(decode(trajectory.text_token_ids))
        sample = {
            "step": step,
            "version": trajectory.oldest_version,
            "ordinal": group.ordinal,
            "prompt": shortened(decode(group.prompt_token_ids)),
            "response": response,
            "reward": group.rewards[index],
            "components": {one.name: one.scores[index] for one in group.components},
            "failures": {
                one.name: f"{failure.outcome}: {failure.text}"
                for one in group.components
                for failure in one.failures
                if failure.index == index
            },
            "finish_reason": trajectory.finish_reason.value,
            "answer": group.answer,
            **(_token_figures(trajectory, response, log_ratios, decode) if log_ratios else {}),
        }
        return json.dumps(sample, ensure_ascii=False, allow_nan=False) + "\n"


def drawn(step: int, responses: int, per_step: int) -> list[int]:
    """Numbers of the responses that are kept of a step's batch, a pure function of these numbers."""
    return random.Random(step).sample(range(responses), min(per_step, responses))


def watched_tokens(step: int, groups: Sequence[ScoredGroup], per_step: int) -> dict[int, int]:
    """The responses that are kept of `step`, by number, and how many of their sampled tokens need a log-ratio."""
    responses = _responses(groups)
    trajectories = {number: responses[number] for number in drawn(step, len(responses), per_step)}
    return {
        number: min(MOST_TOKENS, len(group.trajectories[index].token_ids))
        for number, (group, index) in trajectories.items()
    }


def _responses(groups: Sequence[ScoredGroup]) -> list[tuple[ScoredGroup, int]]:
    return [(group, index) for group in groups for index in range(len(group.trajectories))]


def _token_figures(
    trajectory: Trajectory, response: str, log_ratios: Sequence[float], decode: Decode
) -> dict[str, Any]:
    """Nothing where the tokens do not add up to the response."""
    token_ids, sampled = trajectory.text_token_ids[:MOST_TOKENS], trajectory.sampled[:MOST_TOKENS]
    lengths = token_lengths(token_ids, decode)
    if decode(token_ids).rstrip(_INCOMPLETE) != response[: sum(lengths)].rstrip(_INCOMPLETE):
        return {}
    ratios = iter(log_ratios)
    return {
        "token_lengths": lengths,
        "log_ratios": [round(next(ratios), 4) if one else None for one in sampled.tolist()],
        "spans": [[span.version, span.end - span.begin] for span in trajectory.spans if span.begin < MOST_TOKENS],
    }


def token_lengths(token_ids: np.ndarray, decode: Decode) -> list[int]:
    """Characters that each of the tokens int32 [L] adds to the text of those before it.

    A tokenizer may write a token differently at the beginning of a text, so each is decoded behind the one before it.
    A character of several tokens counts for the last of them.
    """
    lengths: list[int] = []
    begin = shown = 0
    for end in range(1, len(token_ids) + 1):
        text = decode(token_ids[begin:end])
        whole = text.rstrip(_INCOMPLETE)
        lengths.append(max(0, len(whole) - shown))
        if whole == text:
            begin = end - 1
            shown = len(decode(token_ids[begin:end]))
        else:
            shown = max(shown, len(whole))
    return lengths


def rewind(directory: Path, version: int) -> None:
    """Forgets the samples of steps after `version`: they are trained again."""
    rewind_lines(directory / SAMPLES_FILE, "step", version)


def decoder(model: Path) -> Decode | None:
    """What decodes the tokens of the policy in `model`; None, and a warning, where its tokenizer cannot be read."""
    try:
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception for every fault
        logger.warning("%s stays empty: no tokenizer to decode them with: %s", SAMPLES_FILE, error)
        return None

    def decode(token_ids: np.ndarray) -> str:
        text: str = tokenizer.decode(token_ids.tolist(), skip_special_tokens=False)
        return text

    return decode


def shortened(text: str) -> str:
    """At most `LONGEST_TEXT` characters of `text`, from both ends, and how many are missing between them."""
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"
