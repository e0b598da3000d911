"""How much of a gradient is drift, by the length of the answers, at a language model that stays as it is.

The model answers chat prompts in a quantised format, and each answer is judged at every length as if it ended there, by
rewards that need no key: the share of distinct words, and the share of short ones. Both policies' full distributions at
every prefix tell the centred signal from the drift that a weight leaves (benchmarks/long_answers/drift.py), in the
gradient of a bias added to the logits.

    .venv/bin/python examples/smollm2/convert.py
    ais bench drift --model models/smollm2-135m-instruct --tokens 1024
"""

from __future__ import annotations

import argparse
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer

from ais.collector.prompts.prompts import Prompt
from ais.contracts.sampling import Precision, SamplingParameters
from ais.contracts.trajectory import ScoredGroup
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.trainer.policy.microbatch import Sample, cut
from ais.trainer.policy.policy import Policy
from ais_core.advantages import estimate
from benchmarks.long_answers.drift import CAPS, SIGNAL, Estimate, bias, token_terms, up_to
from benchmarks.support.report import Figure, figure, publish
from benchmarks.tiny_grpo.experiment import PRECISIONS
from benchmarks.tiny_grpo.sampler import Sampler

SUBJECTS = (
    *("a lighthouse keeper", "the history of bread", "how rivers shape land", "a lost dog", "why the sky is blue"),
    *("a journey by train", "learning to swim", "the life of a bee", "an old clock", "how ships float"),
    *("a village market", "the moon", "a chess game", "growing tomatoes", "a storm at sea", "the first day at school"),
)
UNCORRECTED_SHARE = 0.25
MIXED = "handover"
"""Its limit for long answers: a quarter uncorrected, the rest by token ratios."""


def distinct_words(text: str) -> float:
    words = text.lower().split()
    return len(set(words)) / len(words) if words else 0.0


def short_words(text: str) -> float:
    words = text.split()
    return mean(len(word) < 5 for word in words) if words else 0.0


REWARDS: Mapping[str, Callable[[str], float]] = {"distinct": distinct_words, "short": short_words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory with a chat template")
    parser.add_argument("--tokens", type=int, default=1024, help="longest answer; halved again and again down to 32")
    parser.add_argument("--precision", default="e4m3", choices=PRECISIONS, help="of the rollouts")
    parser.add_argument("--prompt", action="append", help="a question; may be repeated (default: sixteen subjects)")
    parser.add_argument("--groups", type=int, default=16, help="prompts, at least 3")
    parser.add_argument("--samples", type=int, default=8, help="answers to each")
    parser.add_argument("--slots", type=int, default=64, help="answers written side by side")
    arguments = parser.parse_args()
    if arguments.groups < 3:
        parser.error("--groups: errors are by leaving a group out, which takes at least 3")
    torch.set_num_threads(1)
    lengths = sorted(arguments.tokens >> halving for halving in range(arguments.tokens.bit_length() - 5))
    policy = Policy.load(arguments.model, "cpu")
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    groups = answers(policy, tokenizer, arguments, PRECISIONS[arguments.precision])
    sums: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    gaps: list[float] = []
    for group in track(groups, "scoring", console=Console(stderr=True)):
        for key, value in judged(policy, tokenizer, group, lengths, gaps).items():
            sums[key].append(value)
    stacked = {key: torch.stack(values) for key, values in sums.items()}
    found = {reward: at_lengths(stacked, reward, lengths) for reward in REWARDS}
    Console(stderr=True, width=140).print(shown(found))
    whole = [len(one.token_ids) for group in groups for one in group.trajectories]
    publish("drift", figures(found) | conditions(arguments, whole, gaps))


def answers(
    policy: Policy, tokenizer: Tokenizer, arguments: argparse.Namespace, precision: Precision
) -> list[ScoredGroup]:
    """Groups of answers, as many at once as there are slots for."""
    asked = [f"Write a long text about {subject}." for subject in SUBJECTS]
    asked = arguments.prompt or asked
    texts = [in_chat(arguments.model, asked[index % len(asked)]) for index in range(arguments.groups)]
    prompts = [Prompt(str(index), text, "") for index, text in enumerate(texts)]
    longest = max(len(tokenizer.encode(prompt.text).ids) for prompt in prompts)
    architecture = read_architecture(arguments.model)
    sampler = Sampler(architecture, tokenizer, precision, longest + arguments.tokens, arguments.slots)
    sampler.serve(policy.masters, 0)
    found = []
    at_once = max(1, arguments.slots // arguments.samples)
    for begin in track(range(0, len(prompts), at_once), "sampling", console=Console(stderr=True)):
        sampling = SamplingParameters(max_new_tokens=arguments.tokens, seed=11_000_003 + begin)
        found += sampler.sample(prompts[begin : begin + at_once], arguments.samples, sampling)
    return found


def in_chat(model: Path, text: str) -> str:
    """The text as a user's message, where the tokenizer has a chat template."""
    chat = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if not chat.chat_template:
        return text
    messages = [{"role": "user", "content": text}]
    return str(chat.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


@torch.no_grad()
def judged(
    policy: Policy, tokenizer: Tokenizer, group: ScoredGroup, lengths: Sequence[int], gaps: list[float]
) -> dict[tuple[str, str], Tensor]:
    """A group's mean of advantage times each term, by reward and term: (lengths, V). `gaps` takes the log-ratios."""
    terms: list[dict[str, Tensor]] = []
    for trajectory in group.trajectories:
        (microbatch,) = cut([Sample(group.prompt_token_ids, trajectory)], len(trajectory.token_ids) + 10_000)
        proximal = policy.distribution(microbatch)
        behaviour = policy.distribution(microbatch, microbatch.precision)
        place = microbatch.targets[:, None]
        gaps += (proximal - behaviour).gather(1, place).squeeze(1).tolist()
        terms.append(up_to(token_terms(proximal, behaviour, microbatch.targets), lengths))
    found = {}
    for reward, judge in REWARDS.items():
        texts = [[tokenizer.decode(one.token_ids[:n].tolist()) for one in group.trajectories] for n in lengths]
        scores = torch.tensor([[judge(text) for text in row] for row in texts], dtype=torch.float64)
        same = torch.zeros(len(group.trajectories), dtype=torch.int64)
        advantages = torch.stack([estimate("grpo", row, same) for row in scores]).float()
        for name in terms[0]:
            values = torch.stack([one[name] for one in terms])
            found[reward, name] = torch.einsum("ln,nlv->lv", advantages, values) / len(terms)
    return found


Row = dict[str, tuple[Estimate, Estimate]]
"""By method: length of the drift relative to the signal, and cosine of their sum with the signal."""
Found = Mapping[str, Mapping[int, Row]]
"""By reward and length."""


def at_lengths(sums: Mapping[tuple[str, str], Tensor], reward: str, lengths: Sequence[int]) -> dict[int, Row]:
    drifts = {name: sums[reward, name] for name in CAPS}
    drifts[MIXED] = UNCORRECTED_SHARE * drifts["none"] + (1 - UNCORRECTED_SHARE) * drifts["tis_2"]
    signal = sums[reward, SIGNAL]
    return {
        length: {name: bias(signal[:, place], drift[:, place]) for name, drift in drifts.items()}
        for place, length in enumerate(lengths)
    }


def shown(found: Found) -> Table:
    table = Table(title="length of the drift relative to the signal (cosine of their sum with it)")
    methods = list(next(iter(next(iter(found.values())).values())))
    for column in ("reward", "tokens", *methods):
        table.add_column(column, justify="left" if column == "reward" else "right")
    for reward, by_length in found.items():
        for length, row in by_length.items():
            table.add_row(reward, str(length), *(f"{relative} ({cosine})" for relative, cosine in row.values()))
    return table


def figures(found: Found) -> dict[str, Figure]:
    made: dict[str, Figure] = {}
    for reward, by_length in found.items():
        for length, row in by_length.items():
            for method, (relative, cosine) in row.items():
                if not all(math.isfinite(one) for one in (relative.value, relative.error, cosine.value, cosine.error)):
                    continue  # noise left no signal to compare with
                name = f"{reward}_{length}_{method}"
                made[name] = figure(relative.value, "of the signal") | {"error": relative.error}
                made[f"{name}_cosine"] = figure(cosine.value, "with the signal") | {"error": cosine.error}
    return made


def conditions(arguments: argparse.Namespace, lengths: Sequence[int], gaps: Sequence[float]) -> dict[str, Figure]:
    return {
        "answers": figure(len(lengths), "answers"),
        "answers_per_prompt": figure(arguments.samples, "answers"),
        "mean_length": figure(mean(lengths), "tokens"),
        "mismatch": figure(mean(abs(gap) for gap in gaps), "nats"),
    }


if __name__ == "__main__":
    main()
