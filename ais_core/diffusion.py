"""Estimates the log-probs of tokens that a masked diffusion policy sampled, by one step of unmasking.

A masked diffusion model (LLaDA, arXiv 2502.09992) reads a sequence in which tokens are hidden by a mask token, and
predicts all hidden ones at once, each by itself. It samples by starting from a completion y that is all masks and
unmasking a few tokens a step. Nobody has the likelihood of what comes of it: a token's distribution depends on what was
unmasked before it, and y may have come about in as many ways as there are orders. So the log-probs that corrections and
objectives are made of are estimated here as diffu-GRPO does (arXiv 2504.12216): the whole completion is masked, each
token of the prompt x with a small probability, and one forward pass gives, for each token y_t of the completion,

    phi_t = mean over draws d of  log p(y_t | m_d(x), all of y masked)                m_d: the masks of draw d

What that is, and how far it is from the likelihood:

- **Mean field.** The sum of phi_t over a completion treats its tokens as independent, given the prompt. With no masked
  prompt tokens it is, exactly, the log-likelihood under the policy that unmasks everything in one step. A sampler s of
  several steps lets later tokens see earlier ones, and there the sum is too low on average: by KL(s || one step),
  because E_s[log one step(y)] = E_s[log s(y)] - KL(s || one step). How much too low for a single y is not known.
- **Masked prompts.** The mean of logs is at most the log of the mean (Jensen), so with prompt masks phi_t is another
  bit lower, and it is that of a policy that is shown parts of the prompt. `prompt_probability=0` leaves this out.
- **Ratios.** exp(phi_t of one policy - phi_t of another) is a ratio of one-step predictions. Its mean over what the
  behaviour policy samples in several steps is not 1, as that of a true ratio would be. A weight made of it corrects the
  mismatch that one step of unmasking sees, and no other; that it is unbiased for the reward of the sampled sequences is
  true of one-step samplers without prompt masks alone.

The noise of the masks is no part of a ratio as long as **all policies are asked with the same masks**. They are a
function of the seed and of the sequence's tokens alone, whatever the batch, the padding and the device, so a rollout
engine and a trainer that agree on a seed agree on the masks:

    views = one_step_views(sequences, mask_token=126336, seed=step, draws=2)
    behaviour = estimate(quantised, views)              three policies, one set of masks
    proximal = estimate(trained, views)
    ratios = ais_core.log_ratio(proximal.logprobs, behaviour.logprobs)
    batch = ais_core.SequenceBatch.padded(ratios, sequences.completion)

Identical policies then have log-ratios of exactly 0. With masks of their own they would have log-ratios of the size of
the noise, `Estimate.variance`, and a correction would correct that.
"""

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ais_core.errors import SettingError, ShapeError

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""The policy: token ids (N, L) int64, some of them the mask token, and which places hold a token (N, L) bool, to logits
(N, L, V). It attends to no place that holds none. The logits are those that are sampled from: divided by the
temperature, and -inf for what is never sampled, such as the mask token."""

_UNIT = struct.Struct("<q")
_STEPS = 1 << 32
"""A place of the prompt is masked by four bytes of its own: probabilities are multiples of 2^-32."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Prompts with the completions that were sampled for them, padded anywhere.

    Raises ShapeError for parts that do not describe one batch.
    """

    tokens: Tensor
    """(N, L) int64. What padding holds does not matter."""
    prompt: Tensor
    """(N, L) bool: the places of the prompts."""
    completion: Tensor
    """(N, L) bool: the places of the completions, all of them sampled. Neither prompt nor completion: padding."""

    def __post_init__(self) -> None:
        shapes = {part.shape for part in (self.tokens, self.prompt, self.completion)}
        if len(shapes) != 1 or self.tokens.ndim != 2:
            raise ShapeError(f"tokens, prompt and completion are (N, L) alike, got {sorted(map(tuple, shapes))}")
        if self.tokens.dtype != torch.int64 or {self.prompt.dtype, self.completion.dtype} != {torch.bool}:
            raise ShapeError(
                f"tokens are int64, prompt and completion bool, got {self.tokens.dtype}, {self.prompt.dtype} and "
                f"{self.completion.dtype}"
            )
        if bool((self.prompt & self.completion).any()):
            raise ShapeError("a place is of the prompt or of the completion: some are of both")

    @property
    def present(self) -> Tensor:
        """(N, L) bool: the places that hold a token."""
        return self.prompt | self.completion


@dataclass(frozen=True, eq=False)
class Views:
    """What every policy is asked about a batch of sequences. Made by `one_step_views`."""

    sequences: Sequences
    inputs: Tensor
    """(draws, N, L) int64: the tokens with the completions masked, and some of the prompts' tokens."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """The estimated log-probs of the completions' tokens, in nats."""

    by_draw: Tensor
    """(draws, N, L) float32, or float64 where the logits are: log p(y_t | view) with its graph; 0 outside of the
    completions."""

    @property
    def logprobs(self) -> Tensor:
        """(N, L): the mean over the draws, phi. Its sum over a row is the estimate for the sequence."""
        return self.by_draw.mean(0)

    @property
    def variance(self) -> Tensor:
        """(N, L), detached: the variance of a token's log-prob over the draws (divisor draws - 1), in nats squared.

        That of the mean is this over the number of draws. NaN where there is a single draw, which says nothing of it.
        """
        values = self.by_draw.detach()
        return values.var(0) if len(values) > 1 else torch.full_like(values[0], math.nan)


def one_step_views(
    sequences: Sequences, mask_token: int, seed: int, draws: int = 1, prompt_probability: float = 0.15
) -> Views:
    """Masks every completion as a whole, and each token of the prompts with a probability, `draws` times.

    The masks of a sequence are a function of the seed, its prompt's tokens and its completion's tokens: the same alone
    and in a batch, and the first of few draws are the first of many. Another seed for every step is diffu-GRPO's way.

    Args:
        sequences: what was sampled.
        mask_token: the id of the mask token.
        seed: of 64 bits, signed.
        draws: views of each sequence.
        prompt_probability: of a prompt's token to be masked; 0.15 as in diffu-GRPO.
    Raises:
        SettingError: a number of draws, a probability or a seed outside its meaning.
        ShapeError: a completion with a mask token, which was not sampled to its end.
    """
    if draws < 1:
        raise SettingError(f"draws must be 1 or more, got {draws}")
    if not 0.0 <= prompt_probability < 1.0:
        raise SettingError(f"prompt_probability must be in [0, 1), got {prompt_probability}")
    if not -(1 << 63) <= seed < 1 << 63:
        raise SettingError(f"a seed has 64 bits, got {seed}")
    unfinished = int(((sequences.tokens == mask_token) & sequences.completion).any(1).sum())
    if unfinished:
        raise ShapeError(f"{unfinished} completions hold the mask token {mask_token}: unmask them to their end first")
    masked = sequences.completion.expand(draws, -1, -1)
    if prompt_probability > 0.0:
        masked = masked | _prompt_masks(sequences, seed, draws, prompt_probability)
    masked = masked | ~sequences.present  # whatever padding holds may be no token
    return Views(sequences, sequences.tokens.expand(draws, -1, -1).masked_fill(masked, mask_token))


def estimate(model: Denoiser, views: Views) -> Estimate:
    """The log-probs of the completions by one policy: one forward pass for each draw.

    What is estimated, and with what bias, is told at the top of this module. Gradients flow, unless under `no_grad`.

    Raises ShapeError for logits of another shape than the tokens'.
    """
    sequences = views.sequences
    places, present = sequences.completion, sequences.present
    targets = sequences.tokens[places]
    found = []
    for inputs in views.inputs:
        logits = model(inputs, present)
        if logits.ndim != 3 or logits.shape[:2] != inputs.shape:
            raise ShapeError(f"expected logits {tuple(inputs.shape)} by vocabulary, got {tuple(logits.shape)}")
        asked = logits[places]
        asked = asked.to(torch.promote_types(asked.dtype, torch.float32))
        chosen = asked.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
        found.append(chosen.new_zeros(places.shape).masked_scatter(places, chosen))
    return Estimate(torch.stack(found))


def _prompt_masks(sequences: Sequences, seed: int, draws: int, probability: float) -> Tensor:
    """(draws, N, L) bool: the masked places of the prompts.

    SHAKE-128 of seed, prompt and completion gives as many bytes as are asked for, on every machine and in every
    release of torch the same; torch's own generators promise neither.
    """
    tokens, prompt, completion = (part.cpu() for part in (sequences.tokens, sequences.prompt, sequences.completion))
    places = torch.tensor([1, 1 << 8, 1 << 16, 1 << 24], dtype=torch.int64)
    masks = torch.zeros(draws, *tokens.shape, dtype=torch.bool)
    for row, (ids, of_prompt, of_completion) in enumerate(zip(tokens, prompt, completion, strict=True)):
        asked, given = ids[of_prompt].tolist(), ids[of_completion].tolist()
        if not asked:
            continue
        key = b"".join(_UNIT.pack(one) for one in (seed, len(asked), *asked, *given))
        stream = bytearray(hashlib.shake_128(key).digest(4 * draws * len(asked)))
        numbers = torch.frombuffer(stream, dtype=torch.uint8).view(draws, len(asked), 4).long() @ places
        masks[:, row, of_prompt] = numbers < round(probability * _STEPS)
    return masks.to(sequences.tokens.device)
