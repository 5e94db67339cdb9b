"""Linear inverse problems y = A x + noise and their normal-equation data z = A* y: see `book/inverse-problems.md`."""

import torch
from torch import Tensor

from invlib import _checks


class LinearProblem:
    r"""The measurement $y = A x + \eta$ with white noise $\eta \sim N(0, \delta^2 I)$.

    The data enter every estimator as $z = A^* y = H x + A^* \eta$ with $H = A^* A$: by Lemma 1(a) nothing about x
    is lost on the way from y to z. The noise of z has the covariance $\delta^2 H$.

    Args:
        operator: the forward operator A, (m, n).
        noise_std: the noise standard deviation delta, between 1e-50 and 1e50, in the units of y.

    Raises:
        ValueError: if `operator` is no finite matrix, or its singular values or `noise_std` leave their range.

    Example:
        >>> LinearProblem([[1.0, 0.0], [0.0, 0.5]], noise_std=0.1)
        LinearProblem(A: R^2 -> R^2, noise_std=0.1, singular values 1 ... 0.5)
    """

    def __init__(self, operator: object, noise_std: float) -> None:
        self.operator = _checks.as_float64("operator", operator)
        if self.operator.ndim != 2 or 0 in self.operator.shape:
            raise ValueError(
                f"operator must have shape (m, n), got {tuple(self.operator.shape)}"
            )
        self.noise_std = _checks.scale("noise_std", noise_std)

        size = float(self.operator.abs().max())
        if size != 0 and not _checks.SCALES[0] <= size <= _checks.SCALES[1]:
            raise ValueError(
                f"operator must be zero or have its largest entry between 1e-50 and 1e50, got {size:g}"
            )
        self.singular_values = torch.linalg.svdvals(self.operator)

    def __repr__(self) -> str:
        m, n = self.operator.shape
        largest, smallest = (
            float(self.singular_values[0]),
            float(self.singular_values[-1]),
        )
        return (
            f"LinearProblem(A: R^{n} -> R^{m}, noise_std={self.noise_std:g}, "
            f"singular values {largest:g} ... {smallest:g})"
        )

    @property
    def dim(self) -> int:
        """The dimension n of x and of z."""
        return self.operator.shape[1]

    @property
    def normal_operator(self) -> Tensor:
        """H = A* A, (n, n), float64."""
        return self.operator.mT @ self.operator

    @property
    def rank(self) -> int:
        """The number of singular values above rounding error; A is injective if it equals n."""
        largest = float(self.singular_values[0])
        tolerance = largest * max(self.operator.shape) * torch.finfo(torch.float64).eps
        return int((self.singular_values > tolerance).sum())

    @property
    def is_injective(self) -> bool:
        """Whether A x = 0 for x = 0 only."""
        return self.rank == self.dim

    def forward(self, x: Tensor) -> Tensor:
        """Return A x, (..., m), for x of shape (..., n)."""
        _checks.vectors("x", x, self.dim)
        return x @ self.operator.mT.to(x.dtype)

    def measure(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return one noisy measurement y = A x + noise, (..., m), for each x of shape (..., n)."""
        exact = self.forward(x)
        noise = torch.randn(exact.shape, dtype=x.dtype, generator=generator)
        return exact + self.noise_std * noise

    def normal_data(self, y: Tensor) -> Tensor:
        """Return z = A* y, (..., n), for y of shape (..., m)."""
        _checks.vectors("y", y, self.operator.shape[0])
        return y @ self.operator.to(y.dtype)
