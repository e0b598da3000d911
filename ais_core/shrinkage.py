"""Computes the mixing coefficient of least mean squared error, where the gradients' moments are known.

For g(alpha) = g0 + alpha (g1 - g0) and the true gradient g*, with biases b0, b1, total variances V0, V1 and total
covariance C01 (traces of the covariance matrices),

    E |g(alpha) - g*|^2 = |b0 + alpha (b1 - b0)|^2 + (1 - alpha)^2 V0 + 2 alpha (1 - alpha) C01 + alpha^2 V1

is a parabola in alpha. With b1 = 0 its minimum is the positive-part James-Stein shrinkage of g1 towards g0.

Gradients of two halves of a batch give the moments: with d = g1 - g0, independent halves A and B, and b1 = 0,

    |b0|^2       estimated by d_A . d_B                        Var(d)       by |d_A - d_B|^2 / 4
    Cov(g0, d)   by (g0_A - g0_B) . (d_A - d_B) / 4            alpha* = clip01( (|b0|^2 - Cov) / (|b0|^2 + Var) )

All of these describe the gradients of the whole batch, which are the means of both halves. Each estimate is unbiased.
The alpha of a single batch is noisy, so average the moments over batches first. The half-batch gradients cost further
backward passes: this is meant for studies.
"""

from dataclasses import dataclass

from torch import Tensor


def optimal_alpha(
    uncorrected_bias: Tensor,
    weighted_bias: Tensor,
    uncorrected_variance: float,
    weighted_variance: float,
    covariance: float,
) -> float:
    """alpha in [0, 1] that minimises the mean squared error; 0 when every alpha is as good.

    alpha* = clip01( (b0 . (b0 - b1) + V0 - C01) / (|b0 - b1|^2 + V0 + V1 - 2 C01) )

    Args:
        uncorrected_bias: (parameters,) b0 = E g0 - g*.
        weighted_bias: (parameters,) b1 = E g1 - g*.
        uncorrected_variance, weighted_variance, covariance: V0, V1, C01.
    """
    difference = uncorrected_bias - weighted_bias
    numerator = float(uncorrected_bias @ difference) + uncorrected_variance - covariance
    denominator = float(difference @ difference) + uncorrected_variance + weighted_variance - 2.0 * covariance
    return min(max(numerator / denominator, 0.0), 1.0) if denominator > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class HalfBatchMoments:
    """Estimates, from two halves of a batch, about the uncorrected gradient g0 and its difference d = g1 - g0 to the
    weighted one."""

    squared_bias: float
    """Estimates |E d|^2, which is |b0|^2 when the weighted gradient is unbiased; may be negative."""
    variance: float
    """Estimates the total variance of d over a whole batch."""
    covariance: float
    """Estimates the total covariance of g0 and d over a whole batch."""

    @classmethod
    def of(cls, uncorrected: tuple[Tensor, Tensor], weighted: tuple[Tensor, Tensor]) -> "HalfBatchMoments":
        """From the gradients of each half.

        Args:
            uncorrected, weighted: (parameters,) of the first and of the second half, each the mean over its half.
        """
        first, second = (w - u for u, w in zip(uncorrected, weighted, strict=True))
        apart = first - second
        return cls(
            squared_bias=float(first @ second),
            variance=float(apart @ apart) / 4,
            covariance=float((uncorrected[0] - uncorrected[1]) @ apart) / 4,
        )

    @property
    def alpha(self) -> float:
        """alpha of least mean squared error by these moments; 0 when every alpha is as good."""
        bias = max(self.squared_bias, 0.0)
        spread = bias + self.variance
        return min(max((bias - self.covariance) / spread, 0.0), 1.0) if spread > 0.0 else 0.0
