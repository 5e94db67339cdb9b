r"""The exact minimizer of the loss with the log-determinant (Theorem 1), for two round bumps in the plane.

Posterior mean and MAP estimate have formulas; this map has none, because its equation contains the density of its own
outputs. But the loss is convex where it counts, so the minimizer can be computed: `book/log-determinant.md` proves it,
`book/noise-levels.md` and `book/learned-grids.md` tell how.
"""

import torch
from torch import Tensor

from invlib import _checks
from invlib.ascent import ConvergenceError, maximize
from invlib.priors import GaussianMixture
from invlib.problems import LinearProblem
from invlib.testproblems import two_bumps


class LogDetMinimizer:
    r"""The diffeomorphism that minimizes $\tfrac12 E\|\varphi(x) - z\|_W^2 - \delta^2 E \log\det D\varphi(x)$.

    It has the form $\varphi = (HW)^{-1} \nabla U$ with a convex function U, and among these maps the loss is convex in
    U. So U is sought as $\tfrac12 \langle x, HWHx \rangle$ plus a sum of even trial functions, the expectation becomes
    a sum over a grid, and Newton's method finds the coefficients. The trial functions are quadratics, the logarithm
    of $\cosh(\langle m, x \rangle / \sigma^2)$ and Gaussians on a grid. A second `spacing` tells the error.

    Args:
        problem: an injective problem in the plane.
        prior: two round Gaussians of equal weight and covariance at m and -m, such as `two_bumps()`.
        whiten: whether W is the inverse of H, as in `train`; otherwise it is the identity.
        spacing: distance of the Gaussians among the trial functions, in standard deviations of a bump, from 0.3 to 3.

    Attributes:
        value: the loss at the minimizer, taken at z = Hx: without the constant that the noise adds.
        points: the grid, (B, 2), on one half of the plane; on the other half all is mirrored.
        mass: the weights of the points, (B,); their sum is one.
        coefficients: of the trial functions.

    Raises:
        TypeError: if `problem` is no `LinearProblem`.
        ValueError: if the problem or the prior is not of this kind, the condition number of A is above 1e4, the bumps
            are more than 10 standard deviations apart, or `spacing` is out of its range.
        ConvergenceError: if Newton's method did not arrive.

    Example:
        >>> from invlib import LinearProblem
        >>> from invlib.testproblems import two_bumps
        >>> minimizer = LogDetMinimizer(LinearProblem(torch.eye(2), 0.3), two_bumps())
        >>> minimizer(torch.zeros(1, 2, dtype=torch.float64))[0].tolist()
        [[0.0, 0.0]]
    """

    def __init__(
        self,
        problem: LinearProblem,
        prior: GaussianMixture,
        *,
        whiten: bool = False,
        spacing: float = 0.68,
    ) -> None:
        _check_bumps(problem, prior)
        _checks.flag("whiten", whiten)
        _check_spacing(spacing)
        h = problem.normal_operator
        self.metric = (
            torch.linalg.inv(h) if whiten else torch.eye(2, dtype=torch.float64)
        )
        self.start, self.mix = h @ self.metric @ h, torch.linalg.inv(h @ self.metric)
        bump, std = prior.means[0], float(prior.covariances[0, 0, 0].sqrt())
        self.tilt = bump / std**2
        along = bump / bump.norm()
        axes = torch.stack([along, torch.stack([-along[1], along[0]])])
        step = spacing * std
        far = torch.arange(0, float(bump.norm()) + 4 * std, step, dtype=torch.float64)
        aside = 2 * step * torch.arange(-3, 4, dtype=torch.float64)
        self.centres = torch.cartesian_prod(far, aside) @ axes
        widths = 1.3 * step * torch.tensor([1, 2], dtype=torch.float64)
        self.precision = axes.mT @ torch.diag(widths**-2) @ axes
        self.points, self.mass = _half_plane(prior, axes, std)
        self.coefficients, self.value = self._minimize(
            self.points @ h, problem.noise_std**2
        )

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x), (B, n), and D phi(x), (B, n, n), for float64 points x of shape (B, n)."""
        _checks.vectors("x", x, 2)
        if x.dtype != torch.float64 or x.ndim != 2:
            raise ValueError(
                f"x must have shape (B, 2) and dtype float64, got {tuple(x.shape)} and {x.dtype}"
            )
        return self._at(x)

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._combine(x, *self._trial_functions(x), self.coefficients)

    def inverse(self, z: Tensor, guess: Tensor) -> Tensor:
        """Return phi^{-1}(z), (B, n), by a damped Newton method that starts at the points `guess`, both float64.

        Raises:
            ValueError: if `z` or `guess` is no finite float64 tensor of shape (B, n), or their shapes differ.
            ConvergenceError: if some point was not reached to rounding accuracy.
        """
        for name, points in (("z", z), ("guess", guess)):
            _checks.vectors(name, points, 2)
            if points.dtype != torch.float64 or points.ndim != 2:
                found = f"{tuple(points.shape)} and {points.dtype}"
                raise ValueError(
                    f"{name} must have shape (B, 2) and dtype float64, got {found}"
                )
        if guess.shape != z.shape:
            raise ValueError(
                f"guess must have the shape of z, {tuple(z.shape)}, got {tuple(guess.shape)}"
            )

        def value(x: Tensor, wanted: Tensor) -> Tensor:
            return -0.5 * (self._at(x)[0] - wanted).square().sum(-1)

        def derivatives(x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
            image, jacobian = self._at(x)
            slope = ((wanted - image).unsqueeze(-2) @ jacobian).squeeze(-2)
            # Less a term that vanishes at the solution
            return (
                slope,
                -jacobian.mT @ jacobian,
            )

        x, settled = maximize(value, derivatives, guess, data=(z,))
        if not bool(settled.all()):
            raise ConvergenceError(
                f"the inverse was not reached for {int((~settled).sum())} of {len(z)} data z"
            )
        return x

    def _minimize(self, hx: Tensor, variance: float) -> tuple[Tensor, float]:
        """The coefficients of the trial functions that minimize the loss, and the loss; hx is H times the points."""
        gradients, hessians = self._trial_functions(self.points)
        inner = self.mix.mT @ self.metric @ self.mix
        quadratic = torch.einsum(
            "q,qfi,ij,qgj->fg", self.mass, gradients, inner, gradients
        )
        scale = quadratic.diagonal().rsqrt()
        gradients = gradients * scale[:, None]
        hessians = hessians * scale[:, None, None]
        quadratic = scale[:, None] * quadratic * scale

        def value(coefficients: Tensor) -> Tensor:
            # nan where the Jacobian is not positive definite
            image, jacobian = self._combine(
                self.points, gradients, hessians, coefficients[0]
            )
            misfit = image - hx
            fit = 0.5 * (misfit @ self.metric * misfit).sum(-1)
            loss = self.mass @ (fit - variance * jacobian.logdet())
            return -loss[None]

        def derivatives(coefficients: Tensor) -> tuple[Tensor, Tensor]:
            image, jacobian = self._combine(
                self.points, gradients, hessians, coefficients[0]
            )
            relative = torch.linalg.solve(jacobian.unsqueeze(1), self.mix @ hessians)
            pull = (image - hx) @ self.metric @ self.mix
            slope = torch.einsum("q,qi,qfi->f", self.mass, pull, gradients)
            slope -= variance * torch.einsum("q,qfii->f", self.mass, relative)
            curvature = quadratic + variance * torch.einsum(
                "q,qfij,qgji->fg", self.mass, relative, relative
            )
            return -slope[None], -curvature[None]

        coefficients, settled = maximize(
            value, derivatives, torch.zeros_like(scale)[None]
        )
        if not bool(settled):
            raise ConvergenceError("the minimizer was not reached")
        return scale * coefficients[0], -float(value(coefficients))

    def _trial_functions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients, (B, F, n), and Hessians, (B, F, n, n), of the trial functions at x."""
        quadratics = torch.tensor(
            [[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]], dtype=x.dtype
        )
        tanh = torch.tanh(x @ self.tilt)[:, None, None]
        gradient, hessian = torch.zeros(()), torch.zeros(())
        for sign in (1, -1):  # a Gaussian and its mirror image
            away = x.unsqueeze(1) - sign * self.centres
            pulled = away @ self.precision
            height = torch.exp(-0.5 * (away * pulled).sum(-1, keepdim=True))
            outer = pulled.unsqueeze(-1) * pulled.unsqueeze(-2) - self.precision
            gradient = gradient - height * pulled
            hessian = hessian + height.unsqueeze(-1) * outer
        bend = (1 - tanh.square()).unsqueeze(-1) * self.tilt.outer(self.tilt)
        gradients = [
            torch.einsum("fij,bj->bfi", quadratics, x),
            tanh * self.tilt,
            gradient,
        ]
        return torch.cat(gradients, 1), torch.cat(
            [quadratics.expand(len(x), -1, -1, -1), bend, hessian], 1
        )

    def _combine(
        self, x: Tensor, gradients: Tensor, hessians: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return phi and D phi for U = <x, HWHx> / 2 + the sum of the trial functions."""
        gradient = x @ self.start + torch.einsum("bfi,f->bi", gradients, coefficients)
        hessian = self.start + torch.einsum("bfij,f->bij", hessians, coefficients)
        return gradient @ self.mix.mT, self.mix @ hessian


def _half_plane(
    prior: GaussianMixture, axes: Tensor, std: float
) -> tuple[Tensor, Tensor]:
    """Points and weights of the trapezoidal rule for the prior, on the side of its first bump: all else is even."""
    step = 0.2 * std
    far = torch.arange(
        step / 2, float(prior.means[0].norm()) + 7 * std, step, dtype=torch.float64
    )
    aside = step * torch.arange(-35, 36, dtype=torch.float64)
    points = torch.cartesian_prod(far, aside) @ axes
    mass = prior.log_prob(points).exp()
    kept = mass > 1e-9 * mass.max()
    return points[kept], mass[kept] / mass[kept].sum()


def _check_spacing(spacing: float) -> None:
    if not 0.3 <= _checks.positive("spacing", spacing) <= 3:
        raise ValueError(
            f"spacing must lie between 0.3 and 3 standard deviations of a bump, got {spacing!r}"
        )


def _check_bumps(problem: LinearProblem, prior: GaussianMixture) -> None:
    if not isinstance(problem, LinearProblem):
        raise TypeError(f"problem must be a LinearProblem, got {problem!r}")
    if problem.dim != 2 or not problem.is_injective:
        raise ValueError(f"problem must be injective and in the plane, got {problem}")
    if problem.singular_values[-1] < 1e-4 * problem.singular_values[0]:
        raise ValueError(
            f"problem must have a condition number of at most 1e4, got {problem}"
        )
    pair = (
        isinstance(prior, GaussianMixture)
        and prior.means.shape == (2, 2)
        and bool(prior.means.any())
    )
    if pair:
        bumps = two_bumps(
            prior.means[0].tolist(), float(prior.covariances[0, 0, 0].sqrt())
        )
        pair = all(
            torch.allclose(getattr(prior, name), getattr(bumps, name), rtol=1e-12)
            for name in ("weights", "means", "covariances")
        )
    if not pair:
        raise ValueError(
            f"prior must be two equal round Gaussians at m and -m in the plane, got {prior!r}"
        )
    distance = float(prior.means[0].norm() / prior.covariances[0, 0, 0].sqrt())
    if distance > 5:
        raise ValueError(
            f"prior must have bumps at most 10 standard deviations apart, got {2 * distance:g}"
        )
