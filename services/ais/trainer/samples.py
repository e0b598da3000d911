"""A few of each step's prompts and responses as text, one JSON object a line in `samples.jsonl` of the run's directory.

They are for people: what does the policy write, and what is it rewarded for? Nothing is computed from them.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ais.contracts.trajectory import ScoredGroup
from ais.runtime.files import replace_file

SAMPLES_FILE = "samples.jsonl"
LONGEST_TEXT = 4000
"""Characters kept of a prompt and of a response: the beginning and the end."""
LARGEST_FILE = 8 * 1024 * 1024
"""Bytes. When the file has grown beyond them, the older half of its lines goes."""

Decode = Callable[[np.ndarray], str]
"""Token ids int32 [T] -> text, special tokens included."""

logger = logging.getLogger(__name__)


class SampleLog:
    """Writes a step's samples: `per_step` responses drawn from the whole batch, each as likely as any other.

    The keys of a line: step, version (the oldest policy that sampled a token), ordinal (which prompt), prompt and
    response (with special tokens, as the policy read and wrote them; of an episode all turns and what stood between),
    reward, components (its named scores), failures (why a component could not judge it), finish_reason, answer (what
    the verifier compared with).
    """

    def __init__(self, directory: Path, decode: Decode | None, per_step: int) -> None:
        """Writes nothing without `decode`."""
        self._file = directory / SAMPLES_FILE
        self._decode = decode
        self._per_step = per_step

    def append(self, step: int, groups: Sequence[ScoredGroup]) -> None:
        """Adds the samples of the batch that made `step`."""
        if self._decode is None or not self._per_step:
            return
        responses = [(group, index) for group in groups for index in range(len(group.trajectories))]
        drawn = random.Random(step).sample(responses, min(self._per_step, len(responses)))
        with self._file.open("a", encoding="utf-8") as file:
            for group, index in drawn:
                file.write(self._line(step, group, index, self._decode))
            size = file.tell()
        if size > LARGEST_FILE:
            self._drop_older_half()

    def _line(self, step: int, group: ScoredGroup, index: int, decode: Decode) -> str:
        trajectory = group.trajectories[index]
        sample = {
            "step": step,
            "version": trajectory.oldest_version,
            "ordinal": group.ordinal,
            "prompt": shortened(decode(group.prompt_token_ids)),
            "response": shortened(decode(trajectory.text_token_ids)),
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
        }
        return json.dumps(sample, ensure_ascii=False, allow_nan=False) + "\n"

    def _drop_older_half(self) -> None:
        lines = self._file.read_text(encoding="utf-8").split("\n")  # not splitlines: a text may hold U+2028
        replace_file(self._file, "\n".join(lines[len(lines) // 2 :]))


def rewind(directory: Path, version: int) -> None:
    """Forgets the samples of steps after `version`: they are trained again."""
    file = directory / SAMPLES_FILE
    if not file.exists():
        return
    with file.open(encoding="utf-8", newline="\n") as lines:
        replace_file(file, (line for line in lines if _is_of(line, version)))


def _is_of(line: str, version: int) -> bool:
    """Whether a line is whole and of a step up to `version`. A crash can cut the last line short."""
    try:
        return line.endswith("\n") and int(json.loads(line)["step"]) <= version
    except (ValueError, KeyError, TypeError):
        return False


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
