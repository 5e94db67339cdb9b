r"""Error bars: a reconstruction with the covariance that the derivative of the network implies.

With $z = A^* y$ and white noise of standard deviation $\delta$, the two estimators of the book satisfy

$$\delta^2 \, D x_{\mathrm{PM}}(z) = \mathrm{Cov}(x \mid z), \qquad
\delta^2 \, D x_{\mathrm{MAP}}(z) = \bigl(\delta^{-2} H - \nabla^2 \log p_X(x_{\mathrm{MAP}})\bigr)^{-1}.$$

A network whose inverse is such an estimator has this derivative in closed form: $[D\varphi(x)]^{-1}$ at the
reconstruction $x = \varphi^{-1}(z)$.

Derived in `book/error-bars.md`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invlib import _checks, networks
from invlib.problems import LinearProblem


@dataclass(frozen=True)
class Reconstruction:
    """A reconstruction and its error bars.

    Attributes:
        x: (..., n), the reconstructions.
        covariance: (..., n, n), symmetric.
    """

    x: Tensor
    covariance: Tensor

    @property
    def std(self) -> Tensor:
        """The standard deviation of each coordinate, (..., n), in the units of x."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).sqrt()


class CovarianceError(ArithmeticError):
    """The derivative of the network is not that of an estimator; `reconstruction` holds what was computed."""

    def __init__(self, message: str, reconstruction: Reconstruction) -> None:
        super().__init__(message)
        self.reconstruction = reconstruction

    def __reduce__(self) -> tuple[type, tuple[str, Reconstruction]]:
        return type(self), (str(self), self.reconstruction)


def reconstruct(net: nn.Module, problem: LinearProblem, z: Tensor) -> Reconstruction:
    r"""Return $x = \varphi^{-1}(z)$ and the covariance $\delta^2 [D\varphi(x)]^{-1}$, symmetrized.

    It is the posterior covariance if $\varphi^{-1}$ is the posterior mean, as reconstruction training aims at, and the
    Laplace covariance at the MAP estimate if $\varphi$ minimizes the divergence loss. A network that is only close to
    one of them has error bars that are close on average (`book/error-bars.md`). Nothing is recorded for gradients.

    Args:
        net: any network of the contract in `invlib.networks`.
        problem: gives the noise level delta; z = A* y are its data.
        z: (..., n), or (E, ..., n) for a network with members.

    Raises:
        CovarianceError: if a covariance is not positive definite: the network is far from an estimator there. The
            message names the points, and the error holds the reconstruction.
        ValueError: if `z` is no finite (..., n) tensor.

    Example:
        A Gaussian prior N(0, I) and A = I, so that phi(x) = (1 + delta^2) x is exact:

        >>> from invlib import LinearProblem
        >>> class Wiener(networks.InvertibleNetwork):
        ...     def forward(self, x):
        ...         return 1.25 * x
        ...     def inverse(self, z):
        ...         return z / 1.25
        >>> problem = LinearProblem([[1.0, 0.0], [0.0, 1.0]], noise_std=0.5)
        >>> result = reconstruct(Wiener(), problem, torch.tensor([[1.0, -2.0]]))
        >>> result.x
        tensor([[ 0.8000, -1.6000]])
        >>> result.covariance
        tensor([[[0.2000, 0.0000],
                 [0.0000, 0.2000]]])
        >>> result.std
        tensor([[0.4472, 0.4472]])
    """
    if not isinstance(problem, LinearProblem):
        raise TypeError(
            f"problem must be a LinearProblem, got {type(problem).__name__}"
        )
    _checks.points("z", z, problem.dim)
    _checks.finite("z", z)

    inverse = getattr(net, "inverse", None)
    if not callable(inverse):
        raise TypeError(f"net must have a method inverse(z), got {type(net).__name__}")

    with torch.no_grad():
        x = networks.check_shape("net.inverse(z)", inverse(z), z.shape)
        _, jacobian = networks.forward_and_jacobian(net, x)
        networks.check_shape(
            "the Jacobian of net", jacobian, torch.Size((*z.shape, problem.dim))
        )

        inverse_jacobian, failed = torch.linalg.inv_ex(jacobian.to(torch.float64))
        covariance = (
            0.5 * problem.noise_std**2 * (inverse_jacobian + inverse_jacobian.mT)
        )
        bad = (failed > 0) | (torch.linalg.cholesky_ex(covariance).info > 0)

    result = Reconstruction(x, covariance.to(z.dtype))
    if bool(bad.any()):
        raise CovarianceError(_message(bad), result)
    return result


def _message(bad: Tensor) -> str:
    points = bad.nonzero().tolist()
    first = ", ".join(str(tuple(point)) for point in points[:3])
    more = ", ..." if len(points) > 3 else ""
    return f"the covariance is not positive definite at {len(points)} of {bad.numel()} points: {first}{more}"
