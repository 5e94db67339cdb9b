r"""Standard variables: those in which Wiener's filter is the identity.

For a prior with mean m and covariance C, the best affine reconstruction from z is Wiener's filter,

$$x = m + P^{-1}(z - Hm), \qquad P = H + \hat\delta^2 C^{-1}.$$

A network around a core $\psi$ has this inverse if $\psi$ is the identity:

$$\varphi(x) = c\,P^{1/2}\,\psi\bigl(P^{1/2}(x - m)/c\bigr) + Hm, \qquad c^2 = \mathrm{tr}(PC)/n.$$

The core sees points of mean zero and of size one, whatever the units of x and y. It only has to learn what is not
Gaussian. Linear changes of variables move no minimizer of divergence and approximation, nor the posterior mean; what
changes is the norm in which a limited class of networks is fitted.

Derived in `book/signals.md`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from invlib import _checks
from invlib.blocks import AffineBlock
from invlib.problems import LinearProblem
from invlib.samples import Samples
from invlib.sampling import LARGEST_SOBOL, Sampler, check_sampler, quasi_sample

DRAWN = 2**14
"""Points from which the moments of a prior are taken, where it does not know them."""

WORST_CONDITION = 1e12
"""Condition of P up to which its root can be a layer of a network in single precision."""


@dataclass(frozen=True)
class StandardVariables:
    r"""The affine maps around the core $\psi$ of a network, for each of E members.

    Attributes:
        root: $P^{1/2}$, (E, n, n), float64, symmetric positive definite.
        mean: m, (E, n).
        data_mean: Hm, (E, n).
        scale: c, (E,).

    Example:
        >>> variables = StandardVariables(
        ...     root=2 * torch.eye(1).unsqueeze(0),
        ...     mean=torch.ones(1, 1),
        ...     data_mean=torch.zeros(1, 1),
        ...     scale=torch.ones(1),
        ... )
        >>> x = torch.tensor([[[1.5]]])
        >>> variables.first.value(x), variables.last.value(variables.first.value(x))
        (tensor([[[1.]]]), tensor([[[2.]]]))
    """

    root: Tensor
    mean: Tensor
    data_mean: Tensor
    scale: Tensor

    @property
    def dim(self) -> int:
        """The dimension n."""
        return self.mean.shape[-1]

    @cached_property
    def wiener(self) -> Tensor:
        r"""The matrix $P = H + \hat\delta^2 C^{-1}$, (E, n, n), whose inverse is Wiener's filter."""
        return self.root @ self.root

    @cached_property
    def first(self) -> AffineBlock:
        """The layer before the core, from x to the standard variables."""
        matrix = self.root / self._stretch
        shift = -(matrix @ self.mean.unsqueeze(-1)).mT
        return AffineBlock(matrix, shift)

    @cached_property
    def last(self) -> AffineBlock:
        """The layer after the core, from the standard variables to z."""
        return AffineBlock(self.root * self._stretch, self.data_mean.unsqueeze(-2))

    def of_core(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return points and their data in standard variables, (E, B, n) each: what the core maps to each other."""
        centred = z - self.data_mean.unsqueeze(-2)
        return self.first.value(x), self.last.solver((z,), tol=0.0)(centred)

    def metric(self, loss: str) -> Tensor | None:
        r"""Return the norm W of the misfit, (E, n, n), that is the Euclidean norm in the core's variables, or None.

        For the divergence and the approximation it is $P^{-1}/c^2$, for the reconstruction, whose misfit is one of x,
        $P/c^2$. The log-determinant has another minimizer in another norm, so none is chosen for it.
        """
        if loss in ("approximation", "divergence"):
            inverse: Tensor = torch.linalg.inv(self.root * self._stretch)
            return inverse @ inverse.mT
        if loss == "reconstruction":
            return self.wiener / self._stretch**2
        return None

    def size(self, z: Tensor) -> Tensor:
        """Return the size of data, (E, B), for z of shape (E, B, n): what a tolerance of the inverse is relative to.

        It is the distance from Hm, but not less than what moves the core by one, nor than rounding errors allow.
        """
        centred = z - self.data_mean.unsqueeze(-2).to(z)
        offset = (self.first.matrix @ self.mean.unsqueeze(-1)).squeeze(-1).norm(dim=-1)
        least = self.last.limits[1] * (1e-4 * offset).clamp_min(1.0)
        return torch.maximum(centred.norm(dim=-1), least.unsqueeze(-1).to(z))

    def probes(self, signs: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return u and v, (E, B, n), from random signs, such that $u^* A v$ has the mean tr(A).

        With $v = P^{-1/2}$ signs and $u = P^{1/2}$ signs, the variance is that of the core's derivative.
        """
        solve = self.first.solver((signs,), tol=0.0)
        return self.first.tangent((signs,), signs), solve(signs)

    def state(self) -> dict[str, Tensor]:
        """Return what the constructor takes."""
        return {
            "root": self.root,
            "mean": self.mean,
            "data_mean": self.data_mean,
            "scale": self.scale,
        }

    @property
    def _stretch(self) -> Tensor:
        return self.scale[:, None, None]


def standardize(
    problem: LinearProblem | Sequence[LinearProblem],
    prior: Sampler | Sequence[Sampler],
    *,
    strength: float | Sequence[float] | None = None,
    members: int | None = None,
    mean: object | None = None,
    covariance: object | None = None,
) -> StandardVariables:
    """Return the standard variables of a problem and a prior, or those of the problems and priors of E members.

    Args as for `IResNet.for_problem`.

    Raises:
        ValueError: if an argument does not fit, or P cannot be inverted; names the argument.
        TypeError: if an argument is of a wrong kind, names the argument.
    """
    count = 1 if members is None else _checks.count("members", members)
    problems: list[LinearProblem] = _checks.per_member(
        "problem", problem, LinearProblem, members
    )
    dim = _common_dim(problems)
    priors = [check_sampler(each, dim) for each in _list(prior, count)]
    m, C = _moments(priors, mean, covariance, dim)

    H = torch.stack([each.normal_operator for each in problems])
    noise = _strengths(strength, problems, members).square()[:, None, None]
    P = H + noise * torch.linalg.inv(C)
    return StandardVariables(
        root=_root(P),
        mean=m,
        data_mean=(H @ m.unsqueeze(-1)).squeeze(-1),
        scale=(P @ C).diagonal(dim1=-2, dim2=-1).mean(-1).sqrt(),
    )


def moments(prior: Any, dim: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the mean, (n,), and the covariance, (n, n), of a prior, float64: its own, or those of 2^14 points.

    Of a data set (`Samples`) they are those of the training part, the covariance shrunk (`shrunk_covariance`).

    Raises:
        ValueError: if they do not have these shapes, or are not finite.
        TypeError: if the prior can neither tell them nor be sampled.
    """
    if isinstance(prior, Samples):
        return prior.mean, shrunk_covariance(prior.training)

    mean, covariance = getattr(prior, "mean", None), getattr(prior, "covariance", None)
    if isinstance(mean, Tensor) and isinstance(covariance, Tensor):
        mean = _shaped("the mean of prior", mean, (dim,))
        return mean, _shaped("the covariance of prior", covariance, (dim, dim))

    if hasattr(prior, "from_uniform") and dim < LARGEST_SOBOL:
        points = quasi_sample(prior, DRAWN, seed=0)
    else:
        points = prior.sample(DRAWN, generator=torch.Generator().manual_seed(0))
    points = _shaped("the samples of prior", points, (DRAWN, dim))
    return points.mean(0), shrunk_covariance(points)


def shrunk_covariance(points: Tensor) -> Tensor:
    r"""Return a covariance of points, (N, n), that is positive definite even if there are few of them.

    It is $(1 - \rho) S + \rho\,(\mathrm{tr} S/n) I$ with S the empirical covariance and $\rho$ the share with the least
    mean square error, estimated from the same points (Ledoit and Wolf 2004, "A well-conditioned estimator for
    large-dimensional covariance matrices"), but at least 1/N. For many points it is S.

    Example:
        >>> shrunk_covariance(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor([[0.7500, 0.0000],
                [0.0000, 0.2500]])
    """
    count, dim = points.shape
    centred = points - points.mean(dim=0)
    empirical = centred.mT @ centred / count

    level = empirical.diagonal().mean()
    spread = empirical.square().sum() - dim * level.square()
    error = (
        centred.square().sum(-1).square().sum() / count - empirical.square().sum()
    ) / count
    tiny = torch.finfo(points.dtype).tiny
    share = (error / torch.maximum(error, spread).clamp_min(tiny)).clamp_min(1 / count)

    identity = torch.eye(dim, dtype=points.dtype)
    return (1 - share) * empirical + share * level * identity


def _moments(
    priors: Sequence[Sampler], mean: object | None, covariance: object | None, dim: int
) -> tuple[Tensor, Tensor]:
    """Mean, (E, n), and covariance, (E, n, n): those given, and for what is not given those of the priors."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    if mean is None or covariance is None:
        found = {id(prior): moments(prior, dim) for prior in priors}

    count = len(priors)
    if mean is None:
        m = torch.stack([found[id(prior)][0] for prior in priors])
    else:
        m = _shaped("mean", mean, (dim,), (count, dim))
    if covariance is None:
        C = torch.stack([found[id(prior)][1] for prior in priors])
    else:
        C = _shaped("covariance", covariance, (dim, dim), (count, dim, dim))

    name = "the covariance of prior" if covariance is None else "covariance"
    _checks.cholesky_factors(name, C, _checks.precision(covariance))
    return m.expand(count, dim).clone(), (0.5 * (C + C.mT)).expand(count, dim, dim)


def _shaped(name: str, value: object, *shapes: tuple[int, ...]) -> Tensor:
    """The value as float64, if it has one of the shapes."""
    tensor = _checks.as_float64(name, value)
    if tuple(tensor.shape) not in shapes:
        expected = " or ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(
            f"{name} must have shape {expected}, got {tuple(tensor.shape)}"
        )
    return tensor


def _list(prior: object, count: int) -> list[object]:
    priors = list(prior) if isinstance(prior, (list, tuple)) else [prior] * count
    if len(priors) != count:
        raise ValueError(
            f"prior must be one, or one for each of the {count} members, got {len(priors)}"
        )
    return priors


def _common_dim(problems: Sequence[LinearProblem]) -> int:
    dims = list(dict.fromkeys(problem.dim for problem in problems))
    if len(dims) > 1:
        raise ValueError(
            f"problem must act on the same space for all members, got dimensions {dims}"
        )
    return dims[0]


def _strengths(
    strength: object, problems: Sequence[LinearProblem], members: int | None
) -> Tensor:
    """The strength of each member, (E,)."""
    if strength is None:
        return torch.tensor(
            [problem.noise_std for problem in problems], dtype=torch.float64
        )
    strengths = _checks.per_member("strength", strength, (int, float), members)
    return torch.tensor(
        [_checks.scale("strength", each) for each in strengths], dtype=torch.float64
    )


def _root(P: Tensor) -> Tensor:
    """The symmetric root of P, (E, n, n)."""
    values, vectors = torch.linalg.eigh(0.5 * (P + P.mT))
    least, largest = values[..., 0], values[..., -1]
    if not bool((least > largest / WORST_CONDITION).all()):
        wanted = f"leave H + strength^2 inv(covariance) a condition below {WORST_CONDITION:.0e}"
        found = (
            f"eigenvalues from {float(least.min()):.1e} to {float(largest.max()):.1e}"
        )
        raise ValueError(f"covariance must {wanted}, got {found}")
    root: Tensor = vectors @ (values.sqrt().unsqueeze(-1) * vectors.mT)
    return root
