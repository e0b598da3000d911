"""Settings of the trainer. No torch import here: the command line reads them in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from ais.contracts.evaluation.settings import EvaluationSettings
from ais.contracts.weights.offer import MOST_CHILDREN
from ais.runtime.logging import LoggingSettings
from ais.runtime.network.addresses import Host
from ais.runtime.security.settings import SecuritySettings
from ais.runtime.settings import (
    MOST,
    Count,
    CountOrNone,
    Port,
    RedisSettings,
    RunSettings,
    Seconds,
    SecondsOrNone,
    Section,
    Threads,
)
from ais.trainer.objective_settings import ObjectiveSettings
from ais_core.settings import CorrectionSettings


class OptimizerSettings(Section):
    """Adam over float32 master weights."""

    learning_rate: float = Field(default=3e-4, gt=0.0, le=1.0)
    """Peak learning rate. The default suits the demo, of 100,000 parameters. Begin with 1e-6 on a real model, which
    3e-4 ruins."""
    warmup_steps: CountOrNone = 10
    """Steps over which the learning rate rises linearly from 0. Without them the first noisy batches can end a run."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "constant"
    """Learning rate after the warm-up. linear and cosine fall to 0 at the end of the run; inverse_sqrt falls with the
    square root of the steps whatever `run.steps` is, for a run of unknown length."""
    constant_steps: Count = 100
    """inverse_sqrt: steps at the peak, after the warm-up. At four times as many the rate is half the peak."""
    pace: Literal["constant", "signal"] = "constant"
    """signal: multiply the learning rate of a step by the share of its groups whose rewards differ. The others have no
    gradient, and Adam makes the gradient of a few groups as long a step as that of all (docs/collapse.md). Not with an
    entropy bonus or a reference, which are gradients of every group."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Adam's decay of the gradient mean."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Adam's decay of the squared gradient."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=100.0)
    """Decoupled weight decay (AdamW)."""
    max_grad_norm: float = Field(default=1.0, gt=0.0, le=1e9)
    """Gradients are scaled down to this global norm."""


WITHOUT_PEFT = "trainer.lora needs peft: pip install 'ais-rl[lora]'"
"""What a run with adapters is told where they cannot be made."""


class LoraSettings(Section):
    """Low-rank adapters (needs the extra lora): the model's weights are frozen, in BF16, and adapters are trained."""

    rank: int = Field(default=0, ge=0, le=4096)
    """Rank of the adapters; 16 is common. 0: there are none, and all weights are trained. There is no dropout, as the
    replicas have none; with several trainer.ranks each holds the whole frozen model."""
    alpha: int = Field(default=32, ge=1, le=MOST)
    """An adapter's product is scaled by alpha / rank. Adapters want a learning rate about ten times higher."""
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    """Linear layers that get an adapter, by the last part of their names. The others' weights never travel twice."""


class ComputeSettings(Section):
    """Where and in what portions the trainer computes. Changes no figure but by the order of additions."""

    tokens_per_microbatch: Count = 16_384
    """Tokens, padding included, of one forward pass. It bounds memory and changes nothing else: every sum is global. A
    trajectory that is longer gets a pass of its own; where it is several sequences, one process reads them in pieces
    within this bound, and again in the backward pass, and several ranks with sharded weights read them at once."""
    activation_checkpointing: bool = False
    """Keep only the input of each decoder layer for the backward pass and compute the layer again there: memory of a
    microbatch falls to about one layer's, for about a third more time. Changes no number."""
    share_prompts: bool = False
    """Read a prompt once for all its responses, or those that a rank has, where that is cheaper: where prompts are long
    and responses short. For Llama, Qwen, Mistral, Phi-3 and SmolLM models whose layers all have full attention, and
    without `run.routing_replay`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the policy lives; auto takes a GPU when there is one, of several the one of the rank's number."""
    threads: Threads = 1
    """Threads torch computes a step with on the CPU. Where rollout and training alternate on one machine, as many as it
    has cores: replicas have nothing to do meanwhile."""


class RanksSettings(Section):
    """Training on more than one process (docs/distributed.md)."""

    count: Threads = 1
    """Processes on this machine that share the policy and the batch, one for each GPU; `ais trainer` and `ais run`
    start them with torchrun. Several machines: start torchrun on each, this setting is not read then."""
    max_restarts: CountOrNone = 3
    """With several ranks, how often torchrun starts all of them again after one has failed."""
    collective_seconds: Seconds = 600.0
    """How long a rank may wait for the others in one step of their common work, and how long one may be silent, before
    the process ends with an error that names who is missing."""


class CheckpointSettings(Section):
    """Which checkpoints are written and kept."""

    every_steps: Count = 25
    """Steps between checkpoints, which are written in the background. A trainer that dies goes on from the newest one.
    The queue keeps the groups of the newest checkpoint and of the steps after it: its server needs memory for them."""
    keep: int = Field(default=10, ge=2, le=MOST)
    """Newest checkpoints that stay on the disk, each a whole model; the newest two have the state of training too,
    which takes six times as much."""
    keep_every_steps: CountOrNone = 0
    """Checkpoints at multiples of this many steps stay for good; 0: none."""


class ProbeSettings(Section):
    """The probe: log-probs sent with each version, which a replica must reproduce before it serves it."""

    sequences: int = Field(default=4, ge=0, le=16)
    """Trajectories of the first batch that every version is scored on; 0 sends none."""
    tokens: int = Field(default=64, ge=2, le=64)
    """Tokens of prompt and response, from the beginning, taken of each. The cost is a forward pass over these."""


class PushSettings(Section):
    """How policy versions are written and sent to the replicas."""

    staging_directory: Path | None = None
    """Where policy versions are written, and kept while replicas need them; room for three. None: in the run's
    directory, where a checkpoint takes no copy of them. /dev/shm keeps them in memory."""
    shard_bytes: int = Field(default=1 << 30, ge=1, le=1 << 40)
    """A version is written as files of about this size. A replica passes each on as soon as it is whole."""
    transfer: Literal["http", "shared"] = "http"
    """How the bytes of versions, deltas and adapters travel. `shared`: replicas on the trainer's machine take them from
    its files, hashed once and not copied, where `rollout.shared_directory` names `staging_directory` (or the run's
    directory, where that is None). Whoever cannot gets them over HTTP."""
    wire: Literal["bf16", "replica"] = "bf16"
    """In which numbers versions are sent. `replica`: those that a replica computes with, quantised once at the trainer
    and about half the bytes, where its engine is torch and its precision has E4M3 or E5M2 weights with scales of the
    maximum of each channel; BF16 to the others. What is sampled stays the same to the bit. Room is then needed in the
    staging directory for half as much again for each such precision."""
    lora: Literal["merged", "adapter"] = "merged"
    """How versions are sent where `trainer.lora` trains adapters. `adapter`: the adapter alone, which a replica merges
    into its `run.model`, to the bit as the trainer does. A replica where that does not give the version's digest gets
    merged weights. A trainer on a GPU then merges on the processor what it publishes."""
    deltas: bool = True
    """Send a replica the exact difference to the version it serves, where that is smaller than the whole."""
    delta_threads: Threads = 2
    """Threads that compute it, beside the next step."""
    fanout: int = Field(default=8, ge=1, le=MOST_CHILDREN)
    """Replicas the trainer sends a version to at once. Beyond that many, replicas pass it on to each other."""
    deadline_seconds: Seconds = 120.0
    """One upload of the weights to one replica may take this long; so may passing it on to those below it. A replica
    that takes longer is set aside, and tried again by itself, from where it was cut."""
    attempts: Count = 4
    """Uploads tried in a row, with back-off, before the replica is left alone until the next look at the registry."""
    refusals: int = Field(default=3, ge=1, le=1000)
    """How often every replica may refuse one version for good before the run ends, as it could only wait. The version
    is offered again every ten seconds."""
    final_seconds: SecondsOrNone = 5.0
    """At the end of the run, how long the trainer waits for replicas to take the final version."""
    registry_poll_seconds: Seconds = 0.5
    """How often the trainer looks for replicas that came or that serve an old version."""

    def shared_directory(self, run_path: Path) -> Path | None:
        """What replicas have to name as `rollout.shared_directory`. None: versions travel over HTTP."""
        return (self.staging_directory or run_path) if self.transfer == "shared" else None


class TrainerSettings(Section):
    """How the policy is trained and where the trainer listens."""

    moved: ClassVar[Mapping[str, str]] = {
        "advantage": "objective.advantage",
        "aggregation": "objective.aggregation",
        "clip_low": "objective.ppo_clip.clip_low",
        "clip_high": "objective.ppo_clip.clip_high",
        "objective.clip_low": "objective.ppo_clip.clip_low",
        "objective.clip_high": "objective.ppo_clip.clip_high",
        "straight_through": "objective.straight_through",
        "updates_per_batch": "objective.updates_per_batch",
        "learning_rate": "optimizer.learning_rate",
        "warmup_steps": "optimizer.warmup_steps",
        "schedule": "optimizer.schedule",
        "beta1": "optimizer.beta1",
        "beta2": "optimizer.beta2",
        "weight_decay": "optimizer.weight_decay",
        "max_grad_norm": "optimizer.max_grad_norm",
        "tokens_per_microbatch": "compute.tokens_per_microbatch",
        "activation_checkpointing": "compute.activation_checkpointing",
        "device": "compute.device",
        "threads": "compute.threads",
        "ranks": "ranks.count",
        "max_restarts": "ranks.max_restarts",
        "collective_seconds": "ranks.collective_seconds",
        "save_every_steps": "checkpoints.every_steps",
        "keep_checkpoints": "checkpoints.keep",
        "keep_every_steps": "checkpoints.keep_every_steps",
        "probe_sequences": "probe.sequences",
        "probe_tokens": "probe.tokens",
        "staging_directory": "push.staging_directory",
        "shard_bytes": "push.shard_bytes",
        "wire": "push.wire",
        "deltas": "push.deltas",
        "delta_threads": "push.delta_threads",
        "push_fanout": "push.fanout",
        "push_deadline_seconds": "push.deadline_seconds",
        "push_attempts": "push.attempts",
        "final_push_seconds": "push.final_seconds",
        "registry_poll_seconds": "push.registry_poll_seconds",
    }

    objective: ObjectiveSettings = ObjectiveSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    lora: LoraSettings = LoraSettings()
    compute: ComputeSettings = ComputeSettings()
    ranks: RanksSettings = RanksSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    probe: ProbeSettings = ProbeSettings()
    push: PushSettings = PushSettings()
    float32_head: bool = False
    """Whether logits are computed in float32: the last hidden states and the head's BF16 weights are widened, and their
    products are not rounded to BF16. Set `rollout.precision.float32_head` alike: the trainer warns where they differ.
    Memory: the head's weights once more in float32 while it computes."""
    http_host: Host = "127.0.0.1"
    """Address to listen on."""
    http_port: Port = 0
    """Port to listen on; 0 takes a free one and logs it."""
    stall_seconds: Seconds = 60.0
    """When no batch has come for this long, the trainer says what it waits for, and is not ready until one comes.
    Choose more than sampling one batch takes."""
    untrusted_batches: Count = 5
    """A batch that was sampled by another policy than the one trained, by `correction.mixing.mismatch_limit`, is not
    trained. After this many in a row the run ends with the reason."""
    samples_per_step: int = Field(default=4, ge=0, le=64)
    """Prompts and responses of each step that are kept as text, in `samples.jsonl` of the run's directory; the newest
    8 MB of them."""
    redis_patience_seconds: SecondsOrNone = 300.0
    """How long a Redis that went away in mid-run is waited for."""


class Settings(Section):
    """The sections of a settings file that the trainer reads."""

    run: RunSettings = RunSettings()
    redis: RedisSettings = RedisSettings()
    security: SecuritySettings = SecuritySettings()
    trainer: TrainerSettings = TrainerSettings()
    correction: CorrectionSettings = CorrectionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        check_sections(self.run, self.trainer, self.correction)
        return self


def _check_turns(run: RunSettings, trainer: TrainerSettings, correction: CorrectionSettings) -> None:
    """Raises ValueError where steps of the quantised policy alone would pass over what was asked for."""
    every = trainer.objective.straight_through_every
    if every and (correction.rejections or correction.method not in ("none", "tis", "ais", "handover")):
        raise ValueError(
            f"trainer.objective.straight_through_every = {every} makes steps that weigh and reject nothing: set it to "
            "0, or correction.method to 'ais', 'handover', 'tis' or 'none' and correction.rejections to []; got "
            f"{correction.method!r} and {len(correction.rejections)} rejections"
        )
    if every and run.max_staleness and trainer.objective.name == "policy_gradient":
        raise ValueError(
            f"trainer.objective.straight_through_every = {every} leaves samples of older versions to the surrogate's "
            "ratio, and 'policy_gradient' has none: name ppo_clip, or set run.max_staleness to 0"
        )


def check_sections(run: RunSettings, trainer: TrainerSettings, correction: CorrectionSettings) -> None:
    """Raises ValueError where what one section asks for does not exist by another."""
    if trainer.objective.updates_per_batch > run.groups_per_batch:
        raise ValueError(
            f"trainer.objective.updates_per_batch = {trainer.objective.updates_per_batch} is more than "
            f"run.groups_per_batch = {run.groups_per_batch}: each update needs a group of its own"
        )
    if trainer.push.lora == "adapter" and not trainer.lora.rank:
        raise ValueError("trainer.push.lora = 'adapter' needs adapters: set trainer.lora.rank")
    bonus, reference = trainer.objective.entropy_coefficient > 0.0, trainer.objective.reference.policy != "none"
    if trainer.optimizer.pace == "signal" and (bonus or reference):
        raise ValueError(
            "trainer.optimizer.pace = 'signal' counts groups whose rewards differ, and the others have a gradient too: "
            "set trainer.objective.entropy_coefficient to 0 and trainer.objective.reference.policy to 'none', or pace "
            "to 'constant'"
        )
    if trainer.compute.share_prompts and run.routing_replay:
        raise ValueError(
            "trainer.compute.share_prompts does not know which experts read a prompt for each of its responses: set "
            "it, or run.routing_replay, to false"
        )
    weighs = correction.method != "none" or bool(correction.rejections)
    if trainer.objective.centring and (weighs or trainer.ranks.count > 1):
        raise ValueError(
            "trainer.objective.centring takes the place of importance weights and rejections, on one rank: set "
            "correction.method to 'none', correction.rejections to [] and trainer.ranks.count to 1; got "
            f"{correction.method!r}, {len(correction.rejections)} rejections and {trainer.ranks.count}"
        )
    _check_turns(run, trainer, correction)
    if trainer.objective.straight_through and correction.method != "ais":
        raise ValueError(
            f"trainer.objective.straight_through needs correction.method 'ais', which has an uncorrected branch; got "
            f"{correction.method!r}. For that branch alone, set correction.mixing.alpha_max to 0."
        )
