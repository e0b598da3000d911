"""Computes what is added to a surrogate: a penalty towards a reference policy, and the entropy."""

import torch
from torch import Tensor

from ais_core.errors import SettingError
from ais_core.objective_settings import Estimator
from ais_core.settings import EXPONENT_LIMIT


def reference_kl(current: Tensor, reference: Tensor, estimator: Estimator = "k3") -> Tensor:
    """Estimates of KL(current || reference) per token, for samples of current, (T,) as both arguments.

    With d = log reference - log current:

        value                               gradient, as a loss
        k1    -d           unbiased         that of k2: its own has mean 0 (verl's straight-through)
        k2    d^2 / 2      biased, >= 0     that of KL(current || reference), on policy
        k3    e^d - 1 - d  unbiased, >= 0   that of KL(reference || current), on policy: GRPO's

    d is clamped to +-20 in k3, and a token beyond pulls no more. In the reward only the value counts. John Schulman,
    "Approximating KL divergence" (2020); on the gradients, arXiv 2506.09477.

    Raises SettingError for an unknown estimator.
    """
    difference = reference.detach() - current
    match estimator:
        case "k1":
            half_square = difference.square() / 2
            return half_square - half_square.detach() - difference.detach()
        case "k2":
            return difference.square() / 2
        case "k3":
            bounded = difference.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)
            return torch.expm1(bounded) - bounded
        case _:
            raise SettingError(f"unknown KL estimator {estimator!r}; known: k1, k2, k3")


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the distribution of each row of logits (..., vocabulary), in float32.

    Logits of -inf, which forbid a token, add nothing.
    """
    logs = torch.log_softmax(logits.float(), -1).clamp(min=torch.finfo(torch.float32).min)
    return -(logs.exp() * logs).sum(-1)
