"""Tasks of the reasoning-gym library: prompts are made on demand, and judged by the library's rules.

reasoning-gym (Apache-2.0) has about a hundred datasets: arithmetic, algebra, logic, games. A dataset makes its items
from a seed. Small datasets make the same item from many seeds, so the text of a prompt decides which split it is in.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import logging
import random
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from ais.collector.prompts.prompts import Fits, Prompt, Split, TaskError, anything_fits
from ais.collector.settings import ReasoningGymDataset

DATASET_SIZE = 20_000
"""Items made from one seed of a dataset: the most that every dataset of the library allows."""
ORDINALS_A_SEED = 4096
"""Ordinals after which the datasets get a new seed."""
SHARES = {Split.HELD_OUT: range(1), Split.DEMONSTRATION: range(1, 2), Split.TRAIN: range(2, 8)}
"""Eighths of all texts that belong to each split."""
MOST_DRAWS = 256
"""Items drawn for one prompt before its split counts as empty. With 1000 different texts, no split ever does."""
SOURCE = "source_dataset"
"""Key of the metadata that names an item's dataset."""

logger = logging.getLogger(__name__)


class ReasoningGymTask:
    """Draws items from one or more datasets, by weight."""

    distinct: int | None = None
    too_long = 0

    def __init__(
        self,
        datasets: tuple[ReasoningGymDataset, ...],
        seed: int,
        split: Split,
        fits: Fits = anything_fits,
        label: str | None = None,
    ) -> None:
        """Raises TaskError for an unknown dataset or parameter, and when the split has no prompts that fit."""
        self.name = label or "+".join(dataset.name for dataset in datasets)
        self._datasets = datasets
        self._stream = f"{seed}:{split}"
        self._shares = SHARES[split]
        self._fits = fits
        self._opened = lru_cache(maxsize=2 * len(datasets))(self._open)
        self.prompt(0)

    @property
    def sources(self) -> tuple[ReasoningGymTask, ...]:
        return (self,)

    def prompt(self, ordinal: int) -> Prompt:
        generator = random.Random(f"{self._stream}:{ordinal}")
        for _draw in range(MOST_DRAWS):
            (number,) = generator.choices(range(len(self._datasets)), [dataset.weight for dataset in self._datasets])
            index = generator.randrange(DATASET_SIZE)
            epoch = ordinal // ORDINALS_A_SEED
            item = self._opened(number, epoch)[index]
            if eighth_of(item["question"]) in self._shares and self._fits(item["question"]):
                name = self._datasets[number].name
                return Prompt(
                    prompt_id=f"{name}-{epoch}-{index}",
                    text=item["question"],
                    answer=str(item["answer"] or ""),  # None where any right answer is accepted
                    metadata={**item["metadata"], SOURCE: name},
                    source=self.name,
                )
        raise TaskError(
            f"{self.name} has too few different prompts to keep some apart for evaluation, or most are longer than the "
            "replicas' context: change its parameters (collector.task.datasets), for example the digits or terms"
        )

    def _open(self, number: int, epoch: int) -> Any:
        settings = self._datasets[number]
        seed = random.Random(f"{self._stream}:{number}:{epoch}").getrandbits(31)
        return open_dataset(settings.name, {**settings.parameters, "seed": seed, "size": DATASET_SIZE})


class Scorer:
    """Judges an extracted answer by the rules of the dataset that made its prompt."""

    def __init__(self, datasets: Iterable[ReasoningGymDataset] = ()) -> None:
        """Opens `datasets`. Others are opened when their first prompt comes, with the library's own parameters.

        Raises TaskError for an unknown dataset or parameter."""
        self._opened = {dataset.name: open_dataset(dataset.name, dataset.parameters) for dataset in datasets}

    def score(self, answer: str, prompt: Prompt) -> float:
        """A reward in [0, 1]."""
        name = prompt.metadata[SOURCE]
        if name not in self._opened:
            self._opened[name] = open_dataset(name, {})
        item = {"question": prompt.text, "answer": prompt.answer, "metadata": prompt.metadata}
        try:
            reward = float(self._opened[name].score_answer(answer, item))
        except Exception as error:  # some datasets' parsers raise whatever they meet in an answer that is no answer
            logger.debug("%s cannot read the answer %r: %s", name, answer, error)
            return 0.0
        return min(1.0, max(0.0, reward))


def check_scorable(prompt: Prompt) -> None:
    """Raises TaskError for a prompt that does not name its dataset, or names one that does not exist."""
    name = prompt.metadata.get(SOURCE)
    if not isinstance(name, str):
        raise TaskError(
            f"the verifier reasoning_gym needs the library's own metadata with each prompt, at least "
            f'{{"metadata": {{"{SOURCE}": NAME}}}}, got {dict(prompt.metadata)!r}'
        )
    _registered(name)


def eighth_of(text: str) -> int:
    """The eighth of all texts, 0 to 7, that this one belongs to."""
    return hashlib.sha256(text.encode()).digest()[0] % 8


def open_dataset(name: str, parameters: Mapping[str, Any]) -> Any:
    """A dataset of the library. Raises TaskError for an unknown dataset or parameter, naming the nearest known one."""
    dataset, configuration = _registered(name)
    known = [field.name for field in dataclasses.fields(configuration)]
    for parameter in parameters:
        if parameter not in known:
            raise TaskError(
                f"reasoning-gym's {name} has no parameter {parameter}{_nearest(parameter, known)}; it has "
                f"{', '.join(known)}"
            )
    try:
        return dataset(configuration(**parameters))
    except (AssertionError, TypeError, ValueError) as error:  # the library checks its parameters by assertions
        raise TaskError(f"reasoning-gym's {name} refuses the parameters {dict(parameters)}: {error}") from error


def _registered(name: str) -> tuple[Any, Any]:
    """Class and configuration class of a dataset."""
    datasets = _library()
    if name not in datasets:
        raise TaskError(f"reasoning-gym has no dataset {name}{_nearest(name, datasets)}")
    return datasets[name]


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _library() -> dict[str, tuple[Any, Any]]:
    """Every dataset by name. Imported when it is needed: that takes seconds."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise TaskError(
            f"the task reasoning_gym needs the library of that name ({error}): pip install '.[reasoning-gym]'"
        ) from error
    return DATASETS  # type: ignore[no-any-return]
