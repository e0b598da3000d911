"""The mixing coefficient of least mean squared error, where the gradients' moments are known.

For g(alpha) = g0 + alpha (g1 - g0) and the true gradient g*, with biases b0, b1, total variances V0, V1 and total
covariance C01 (traces of the covariance matrices),

    E |g(alpha) - g*|^2 = |b0 + alpha (b1 - b0)|^2 + (1 - alpha)^2 V0 + 2 alpha (1 - alpha) C01 + alpha^2 V1

is a parabola in alpha. With b1 = 0 its minimum is the positive-part James-Stein shrinkage of g1 towards g0.
"""

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
