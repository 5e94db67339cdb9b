"""What is known about the minimizer of a training loss before any training: its value, its slopes, its curvature.

Derived in `book/divergence.md` (Theorem 2 and Corollary 1) and `book/approximation.md`.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from invlib.sampling import QuasiPrior, Sampler, quasi_sample

MOST_POINTS = 2**16  # of a mean over the prior, in low dimensions


class ScoredPrior(QuasiPrior, Protocol):
    """A prior with the derivatives of its log-density."""

    def score(self, x: Tensor) -> Tensor:
        """The gradient of log p, (..., n)."""

    def hessian(self, x: Tensor) -> Tensor:
        """Its second derivative, (..., n, n)."""


class ReachWarning(UserWarning):
    """The minimizer of the loss has slopes that no network of this architecture can have."""


@dataclass(frozen=True)
class Target:
    """The minimizer over all maps of one of the four losses, as far as it is known.

    Attributes:
        loss: the name of the loss.
        priors: (E,) priors, one for each member.
        normal: H of each member, (E, n, n).
        metric: W of each member, (E, n, n).
        noise: the part of the loss that only the noise makes, (E,).
        noise_std: (E,).
        strength: (E,).
        single: whether the network has no members, and results are floats.
    """

    loss: str
    priors: Sequence[Sampler]
    normal: Tensor
    metric: Tensor
    noise: Tensor
    noise_std: Tensor
    strength: Tensor
    single: bool

    def minimum(self) -> float | Tensor | None:
        r"""Return the optimal value, a float or (E,), where Theorem 2 or the approximation loss gives it.

        For the divergence it is the noise constant less $\hat\delta^2 \mathrm{tr}(WH) + \tfrac12\hat\delta^4
        E\langle s, Ws \rangle$. The mean needs the prior's score; it is taken over up to 2^16 quasi-random points.
        """
        if self.loss == "approximation":
            return self._result(self.noise)
        if self.loss != "divergence" or not self._all_have("score", "from_uniform"):
            return None

        information = trace(self.metric @ self._per_prior(mean_square_score))
        strength2 = self.strength.square()
        gain = strength2 * trace(self.metric @ self.normal)
        return self._result(self.noise - gain - 0.5 * strength2.square() * information)

    def negative_curvature(self) -> float | Tensor | None:
        r"""Return the share of the prior at which $H - \hat\delta^2 \nabla^2 \log p$ is not positive definite.

        Where it is positive definite everywhere, the minimizer of the divergence loss is invertible and its inverse is
        the MAP estimate (Corollary 1); otherwise no invertible network is both. A float or (E,), over up to 4,096
        quasi-random points; None for other losses and where the prior's Hessian is unknown.
        """
        if self.loss != "divergence" or not self._all_have("hessian", "from_uniform"):
            return None

        shares = []
        for prior, normal, strength in zip(
            self.priors, self.normal, self.strength, strict=True
        ):
            shares.append(
                _negative_share(cast(ScoredPrior, prior), normal, float(strength))
            )
        return self._result(torch.tensor(shares, dtype=torch.float64))

    def slopes(self) -> tuple[Tensor, Tensor] | None:
        r"""Return the least and the largest slope, (E,) each, of the affine map with the least loss.

        For the approximation loss this is H. For divergence and reconstruction it is $H + \hat\delta^2 C^{-1}$ where
        the covariance C of the prior is known; where it is not, and for the log-determinant, the slopes are at least
        those of H. (What is not known from below is zero or infinite, so that it is never out of reach.)
        """
        if self.loss not in (
            "approximation",
            "reconstruction",
            "log_det",
            "divergence",
        ):
            return None

        values = torch.linalg.eigvalsh(self.normal)
        least, largest = torch.full_like(values[:, 0], math.inf), values[:, -1].clone()
        if self.loss in ("approximation", "log_det"):
            return least, largest

        factors = self.noise_std if self.loss == "reconstruction" else self.strength
        for e, (prior, factor) in enumerate(zip(self.priors, factors, strict=True)):
            covariance = _covariance(prior, self.normal.shape[-1])
            if covariance is not None:
                affine = self.normal[e] + factor**2 * torch.linalg.inv(covariance)
                values = torch.linalg.eigvalsh(affine)
                least[e], largest[e] = values[0], values[-1]
        return least, largest

    def _per_prior(self, function: Callable[[ScoredPrior], Tensor]) -> Tensor:
        """A quantity of the prior, or the stack of those of the members' priors."""
        priors = [cast(ScoredPrior, prior) for prior in self.priors]
        if all(prior is priors[0] for prior in priors):
            return function(priors[0])
        return torch.stack([function(prior) for prior in priors])

    def _all_have(self, *methods: str) -> bool:
        return all(
            callable(getattr(prior, method, None))
            for prior in self.priors
            for method in methods
        )

    def _result(self, value: Tensor) -> float | Tensor:
        return float(value) if self.single else value


def warn_if_out_of_reach(net: object, target: Target) -> None:
    """Warn if the target has larger or smaller slopes than the network can have, for any of its members."""
    limits, slopes = reachable_slopes(net), target.slopes()
    if limits is None or slopes is None:
        return

    (lower, upper), (least, largest) = limits, slopes
    advice = "Set more `blocks` or a `lipschitz` closer to one, or scale the problem"
    if bool((largest > upper).any()):
        worst = int((largest / upper).argmax())
        warnings.warn(
            f"the minimizer of the {target.loss} loss has slopes of {float(largest[worst]):.3g}, and those of net are "
            f"at most {float(upper.expand_as(largest)[worst]):.3g}: it is out of reach. {advice} (by a smaller "
            "operator, or by `output_operator`).",
            ReachWarning,
            stacklevel=3,
        )
    if bool((least < lower).any()):
        worst = int((least / lower).argmin())
        warnings.warn(
            f"the minimizer of the {target.loss} loss has slopes of {float(least[worst]):.3g}, and those of net are "
            f"at least {float(lower.expand_as(least)[worst]):.3g}: it is out of reach. {advice} (by a larger "
            "operator, or by `output_operator`).",
            ReachWarning,
            stacklevel=3,
        )


def reachable_slopes(net: object) -> tuple[Tensor, Tensor] | None:
    """Return bounds (lower, upper) of the slopes that training can give to `net`, () or (E,) each; None if unknown.

    They are the certified bounds of the network. Where it says how far its blocks are from their limit (`block_bounds`
    and `lipschitz`), they are those of blocks at their limit.
    """
    certified = getattr(net, "lipschitz_bounds", None)
    if not callable(certified):
        return None

    lower, upper = (
        torch.as_tensor(bound, dtype=torch.float64).cpu() for bound in certified()
    )
    limit, of_blocks = (
        getattr(net, "lipschitz", None),
        getattr(net, "block_bounds", None),
    )
    if isinstance(limit, float) and callable(of_blocks):
        bounds = (
            torch.as_tensor(of_blocks(), dtype=torch.float64).cpu().clamp_max(limit)
        )
        lower = lower * ((1 - limit) / (1 - bounds)).prod(dim=-1)
        upper = upper * ((1 + limit) / (1 + bounds)).prod(dim=-1)
    return lower, upper


def trace(matrices: Tensor) -> Tensor:
    """The trace of each matrix of a stack."""
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def mean_square_score(prior: ScoredPrior) -> Tensor:
    """E s s* of the score s of a prior, (n, n), float64, over quasi-random points, in chunks."""
    dim = prior.dim
    points = quasi_sample(prior, _capped(MOST_POINTS, 2**26, dim), seed=0)
    total = torch.zeros(dim, dim, dtype=torch.float64)
    for chunk in torch.split(points, _chunk(dim)):
        score = prior.score(chunk)
        total = total + score.mT @ score / len(points)
    return total


def _negative_share(prior: ScoredPrior, normal: Tensor, strength: float) -> float:
    """The share of points at which H - strength^2 (Hessian of log p) has a negative eigenvalue."""
    dim = prior.dim
    points = quasi_sample(prior, _capped(2**12, 2**26, dim), seed=0)
    negative = 0
    for chunk in torch.split(points, _chunk(dim)):
        curvature = normal - strength**2 * prior.hessian(chunk)
        negative += int((torch.linalg.eigvalsh(curvature)[..., 0] <= 0).sum())
    return negative / len(points)


def _capped(most: int, work: int, dim: int) -> int:
    """A power of two: the number of points for which n^2 numbers each stay within `work`, between 2^8 and `most`."""
    within: int = 2 ** int(math.log2(work / dim**2)) if work > dim**2 else 1
    return min(most, max(2**8, within))


def _chunk(dim: int) -> int:
    """The number of points with 2^22 numbers, n^2 for each."""
    return max(16, 2**22 // dim**2)


def _covariance(prior: object, dim: int) -> Tensor | None:
    """The covariance of a prior if it is known and not singular."""
    covariance = getattr(prior, "covariance", None)
    if not isinstance(covariance, Tensor) or covariance.shape != (dim, dim):
        return None
    covariance = covariance.detach().to(torch.float64).cpu()
    values = torch.linalg.eigvalsh(covariance)
    return covariance if bool(values[0] > 1e-10 * values[-1]) else None
