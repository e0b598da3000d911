"""Settings of where prompts come from and how their responses are judged: section [collector.task]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ais.collector.settings.environments import EPISODE, TURNS, EnvironmentSettings
from ais.collector.settings.recipes import RecipeName, with_recipe
from ais.collector.settings.rewards import Component, Reward, VerifierName, check_reward, needs_answer, single
from ais.runtime.settings import Section

LEAST_SHARE = 1e-3
"""The smallest share of a mixture that a source may have."""

ROW_TASKS = ("jsonl", "parquet", "huggingface", "python")
"""Tasks that read rows."""
WORKED_TASKS = ("sort_swaps", "sum_chain")
"""Tasks whose answers are written-out work: the tasks/worked package."""
LEAST_DIGITS = 4
"""... of those, so that there are problems enough for every split."""
MOST_WORK = 2048
"""Tokens of a prompt and its answer there: the context of the small policies."""


class ReasoningGymDataset(Section):
    """One dataset of the reasoning-gym library."""

    name: str
    """Its name there, such as chain_sum."""
    weight: float = Field(default=1.0, gt=0.0, le=1e9)
    """How often its items are drawn, relative to those of the other datasets."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Its own parameters, such as {max_terms = 2}. The library sets those that are not given."""

    @model_validator(mode="after")
    def _seed_is_ours(self) -> Self:
        if taken := {"seed", "size"} & self.parameters.keys():
            raise ValueError(f"{' and '.join(sorted(taken))} cannot be set here: prompts are drawn from run.seed")
        return self


class ColumnSettings(Section):
    """Which columns of a row are what. A name with dots goes into objects: `reward_model.ground_truth`."""

    prompt: str = Field(default="prompt", min_length=1)
    """The question: text, or a list of chat messages, each with `role` and `content`."""
    template: str | None = Field(default=None, min_length=1)
    r"""In the place of `prompt`: a text in which {column} is that column's value. Other braces, as in \boxed{}, stay as
    they are; {{column}} is {column} itself."""
    answer: str = "answer"
    """What verifiers compare with: text or a number. Empty: rows have no answer, and the verifier needs none."""
    answer_pattern: str | None = Field(default=None, min_length=1)
    r"""Regular expression that finds the answer inside that column: its last match, or that match's first group. For
    GSM8K `####\s*(.+)`."""
    answer_is_json: bool = False
    """Verifiers get the answer as JSON text, whatever it is: a list, an object, null."""
    id: str = ""
    """Text or a whole number that names the row. Empty: `id` where a row has it, else where the row stands."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """What else verifiers get: names and the columns they are taken from, such as {numbers = "nums"}. Empty: the object
    `metadata`, where a row has it."""


class SourceSettings(Section):
    """A source of prompts, and how responses to them are judged."""

    recipe: RecipeName | None = None
    """Sets what is customary for a benchmark, wherever nothing else is set here: dataset, columns, template, reward."""
    name: Literal[
        "sort",
        "sort_swaps",
        "sum_chain",
        "guess_number",
        "calculations",
        "jsonl",
        "parquet",
        "huggingface",
        "reasoning_gym",
        "python",
        "verifiers",
        "mixture",
    ] = "sort"
    """`sort` makes digit-sorting problems; `sort_swaps`, with the swaps written out, and `sum_chain`, long additions,
    have long answers. `guess_number` thinks of numbers, for the environment of that name, and `calculations` asks for
    calculations of three numbers, for the environment `calculator`. `jsonl` and `parquet` read
    files, `huggingface` a dataset of that library. `reasoning_gym` makes problems with the library of that name, which
    has about a hundred kinds. `python` takes what a function of yours gives, `verifiers` the tasks of the environment
    of that name, and `mixture` draws from `sources`."""
    label: str | None = Field(default=None, min_length=1, max_length=128)
    """What records, metrics and evaluation call this source. None: a name made of the file, the dataset or the task."""
    digits: int = Field(default=16, ge=1, le=512)
    """Digits to sort, for `sort` and `sort_swaps`; digits of a number, for `sum_chain`."""
    terms: int = Field(default=30, ge=1, le=512)
    """For `sum_chain`: how many sums. Its answers have terms * (digits + 1) tokens, those of `sort_swaps`
    digits * (digits + 1)."""
    highest: int = Field(default=31, ge=1, le=99)
    """For `guess_number`: the numbers are 0 to this one."""
    tasks: int = Field(default=1000, ge=2, le=1_000_000)
    """For `verifiers`: the tasks that are read, from the first on."""
    file: Path | tuple[Path, ...] | None = None
    """For `jsonl` and `parquet`: a file, a list of files, or a pattern such as data/*.jsonl. A JSONL file has one
    object a line; a file that ends in .json is an array of objects; both may be compressed (.gz, .zst). For
    `huggingface`: a directory, in the place of `dataset`."""
    held_out_file: Path | tuple[Path, ...] | None = None
    """The same for evaluation. Prompts that both have are not trained on."""
    dataset: str | None = Field(default=None, min_length=1)
    """For `huggingface`: the id of a dataset of the hub, such as openai/gsm8k."""
    dataset_config: str | None = None
    """For `huggingface`: the configuration, where a dataset has several."""
    revision: str | None = None
    """For `huggingface`: branch, tag or commit of the dataset."""
    split: str = Field(default="train", min_length=1)
    """For `huggingface`: what is trained on, such as train or train[:1000]."""
    held_out_split: str | None = Field(default=None, min_length=1)
    """For `huggingface`: what is evaluated on. None: `held_out_fraction` of `split`."""
    function: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?$", max_length=500)
    """For `python`: `module:function`, or the name of an entry point of the group ais.tasks. It gives a table of rows
    or an object that makes them (docs/data.md)."""
    directory: Path | None = None
    """For `python`: where the module lies. None: where Python finds it, the current directory included."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """For `python`: what the function is called with."""
    columns: ColumnSettings = ColumnSettings()
    """Which columns of a row are what."""
    held_out_fraction: float = Field(default=0.1, gt=0.0, le=1.0)
    """Without `held_out_file` and `held_out_split`: the share of the rows that is kept for evaluation and never trained
    on. The prompt alone decides, so rows may come and go without moving another. 1: none is trained on."""
    too_long: Literal["refuse", "skip"] = "refuse"
    """Rows whose prompts are too long for the replicas stop the run before it starts, or are left out and counted.
    Problems that are made, as by `reasoning_gym`, are made again until one fits."""
    datasets: tuple[ReasoningGymDataset, ...] = ()
    """For `reasoning_gym`: which of its datasets, such as [{name = "chain_sum", parameters = {max_terms = 2}}]."""
    verifier: VerifierName | None = None
    """`exact_match`: the response is the answer, letter by letter, with the work where it is written out. `last_step`:
    what the response ends in, after its last `,` or `;`, is what the answer ends in. `regular_expression`: what
    `pattern` captures is the answer, compared as a number where the answer is one. `reasoning_gym`: that library scores
    what `pattern` captures; a JSONL file then needs its metadata. None: `reasoning_gym` for the task of that name,
    `last_step` for `sort_swaps` and `sum_chain`, else `exact_match`. All of them: docs/rewards.md."""
    pattern: str | None = None
    r"""The last match counts: its first group that took part, or all of it where the pattern has no groups. None:
    `####\s*(\S+)` for `regular_expression`, `<answer>(.*?)</answer>` for `reasoning_gym`."""
    reward: Reward = ()
    """In the place of `verifier`: named components, whose weighted sum is the reward. Each has `verifier` (exact_match,
    last_step, regular_expression, numeric, math_verify, multiple_choice, countdown, sudoku, json_schema, reasoning_gym,
    format, overlong, function, service), and may have `name`, `weight` and the verifier's own keys: docs/rewards.md."""

    environment: EnvironmentSettings | None = None
    """What the policy acts in over several turns. None: a prompt is answered by one response. For the task
    `guess_number` it is the environment of that name, and for `calculations` the calculator, unless another is
    given."""

    @property
    def effective_environment(self) -> EnvironmentSettings | None:
        """What answers the policy's turns."""
        if self.environment is None and self.name == "guess_number":
            return EnvironmentSettings(name="guess_number")
        if self.environment is None and self.name == "calculations":
            return EnvironmentSettings(name="calculator")
        return self.environment

    @property
    def effective_label(self) -> str:
        """What the source is called: the same in every process, whatever the files hold."""
        if self.label is not None or self.recipe is not None:
            return self.label or str(self.recipe)
        if self.name in ("jsonl", "parquet", "huggingface"):
            return self.dataset or _stem(self.file)
        if self.name == "python":
            return str(self.function)
        if self.name == "reasoning_gym":
            return "+".join(dataset.name for dataset in self.datasets)
        if self.name == "sum_chain":
            return f"sum_chain{self.terms}x{self.digits}"
        if self.name == "guess_number":
            return f"guess{self.highest}"
        if self.name == "verifiers" and self.environment is not None:
            return str(self.environment.taskset)
        return f"{self.name}{self.digits}" if self.name in ("sort", "sort_swaps") else self.name

    @property
    def work_tokens(self) -> int:
        """Tokens of a prompt and its answer where that is written-out work, both ends included; 0 for other tasks."""
        rows = {"sort_swaps": 1 + self.digits, "sum_chain": 2 + self.terms}.get(self.name)
        return 1 + rows * (self.digits + 1) if rows else 0

    @property
    def effective_verifier(self) -> VerifierName:
        """The verifier that judges where `reward` is empty."""
        if self.verifier is not None:
            return self.verifier
        if self.name == "reasoning_gym":
            return "reasoning_gym"
        return "last_step" if self.name in WORKED_TASKS else "exact_match"

    @property
    def effective_reward(self) -> tuple[Component, ...]:
        """The components that judge; none where an environment gives the reward."""
        environment = self.effective_environment
        if environment is not None and environment.judges:
            return ()
        return self.reward or (single(self.effective_verifier, self.pattern),)

    @property
    def component_labels(self) -> tuple[str, ...]:
        """The names of the reward's components."""
        environment = self.effective_environment
        if environment is None:
            return tuple(component.label for component in self.effective_reward)
        own = (EPISODE,) if environment.judges or environment.by_programs else ()
        return (*(one.label for one in self.effective_reward), *own, TURNS)

    @property
    def needs_answer(self) -> bool:
        """Whether a prompt without an answer cannot be judged."""
        environment = self.effective_environment
        if environment is not None and environment.name in ("guess_number", "calculator"):
            return True
        return any(needs_answer(component) for component in self.effective_reward)

    @property
    def needs_reasoning_gym(self) -> bool:
        """Whether prompts must have the metadata of that library."""
        return any(component.verifier == "reasoning_gym" for component in self.effective_reward)

    @model_validator(mode="before")
    @classmethod
    def _follows_its_recipe(cls, given: Any) -> Any:
        return with_recipe(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _recipe_has_a_source(self) -> Self:
        if self.recipe is not None and self.name not in ROW_TASKS:
            raise ValueError(
                f"the recipe {self.recipe} has no dataset of its own here, and reads rows: set collector.task.name to "
                "jsonl, parquet, huggingface or python"
            )
        return self

    @model_validator(mode="after")
    def _reward_is_said_once(self) -> Self:
        if self.reward and (self.verifier is not None or self.pattern is not None):
            raise ValueError("verifier and pattern belong to each component of the reward: [[collector.task.reward]]")
        check_reward(self.effective_reward)
        environment = self.effective_environment
        if environment is not None and environment.judges and (self.reward or self.verifier or self.pattern):
            raise ValueError(
                f"the environment {environment.name} gives the reward itself: leave verifier, pattern and reward out"
            )
        return self

    @model_validator(mode="after")
    def _source_is_given(self) -> Self:
        if self.name in ("jsonl", "parquet") and not self.file:
            raise ValueError(f"task {self.name} needs collector.task.file, a file of prompts and answers")
        if self.name == "huggingface" and (self.dataset is None) == (self.file is None):
            raise ValueError("task huggingface needs one of collector.task.dataset, an id, and file, a directory")
        if self.name == "huggingface" and not isinstance(self.file, Path | None):
            raise ValueError("task huggingface takes one directory in collector.task.file")
        if self.name == "huggingface" and self.held_out_file is not None:
            raise ValueError("task huggingface takes collector.task.held_out_split, not held_out_file")
        if (self.name == "verifiers") != (self.environment is not None and self.environment.name == "verifiers"):
            raise ValueError('collector.task.name = "verifiers" and environment.name = "verifiers" go together')
        if self.name == "python" and self.function is None:
            raise ValueError("task python needs collector.task.function, such as my_module:my_function")
        if self.name == "reasoning_gym" and not self.datasets:
            raise ValueError('task reasoning_gym needs collector.task.datasets, such as [{name = "chain_sum"}]')
        if self.name in ("sort", *WORKED_TASKS) and self.needs_reasoning_gym:
            raise ValueError(
                f"the verifier reasoning_gym judges prompts of that library; {self.name} has none of its metadata"
            )
        if self.name in WORKED_TASKS and self.digits < LEAST_DIGITS:
            raise ValueError(f"{self.name} needs collector.task.digits of at least {LEAST_DIGITS}, got {self.digits}")
        if self.work_tokens > MOST_WORK:
            raise ValueError(
                f"{self.name}: a prompt and its answer would have {self.work_tokens} tokens, more than {MOST_WORK}"
            )
        return self


def _stem(file: Path | tuple[Path, ...] | None) -> str:
    """The first file's name without its ending; of a pattern, the directory's before it."""
    first = file if isinstance(file, Path) else (file or (Path("rows"),))[0]
    named = [part for part in first.parts if not set("*?[") & set(part)]
    stem = first.stem.removesuffix(".jsonl").removesuffix(".json")  # of train.jsonl.gz
    return stem if len(named) == len(first.parts) else (named[-1] if named else "rows").strip("/") or "rows"


class MixtureSource(SourceSettings):
    """One source of a mixture."""

    weight: float = Field(default=1.0, ge=0.0, le=1e9)
    """How often its prompts are drawn, relative to those of the other sources. 0: never; it is only evaluated on."""

    @model_validator(mode="after")
    def _is_no_mixture(self) -> Self:
        if self.name == "mixture":
            raise ValueError("a source of a mixture cannot be a mixture: list its sources, with their weights, instead")
        return self


class TaskSettings(SourceSettings):
    """Where prompts come from and how responses are judged."""

    sources: tuple[MixtureSource, ...] = Field(default=(), max_length=64)
    """For `mixture`: its sources. Each has the keys of this section, its own verifier among them, and a `weight`."""

    @property
    def each_source(self) -> tuple[SourceSettings, ...]:
        """The sources of a mixture, in their order; else this one alone."""
        return self.sources if self.name == "mixture" else (self,)

    @property
    def all_component_labels(self) -> frozenset[str]:
        """The names of the components of all sources' rewards."""
        return frozenset(label for source in self.each_source for label in source.component_labels)

    @model_validator(mode="after")
    def _mixture_can_be_drawn_from(self) -> Self:
        if (self.name == "mixture") != bool(self.sources):
            raise ValueError('collector.task.name = "mixture" and [[collector.task.sources]] go together')
        if self.name != "mixture":
            return self
        if self.environment is not None:
            raise ValueError("environment belongs to each source of the mixture: [[collector.task.sources]]")
        if self.verifier is not None or self.pattern is not None or self.reward:
            raise ValueError(
                "verifier, pattern and reward belong to each source of a mixture, in [[collector.task.sources]]"
            )
        labels = Counter(source.effective_label for source in self.sources)
        if twice := [label for label, number in labels.items() if number > 1]:
            raise ValueError(f"two sources of the mixture are called {twice[0]}: give each a label of its own")
        total = sum(source.weight for source in self.sources)
        if total == 0:
            raise ValueError("a mixture needs a source with a weight above 0")
        for source in self.sources:
            if 0 < source.weight < LEAST_SHARE * total:
                raise ValueError(
                    f"the source {source.effective_label} has a share of {source.weight / total:.2g} of the mixture; "
                    f"the least is {LEAST_SHARE:g}"
                )
        return self
