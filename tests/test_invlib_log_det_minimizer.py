"""Tests of `invlib.LogDetMinimizer`: the equation of Theorem 1, closed forms, a convex loss, and its errors."""

import math

import oracles
import pytest
import torch
from torch import Tensor

import invlib
from invlib import GaussianMixture, IResNet, LinearProblem
from invlib.log_det_minimizer import LogDetMinimizer, _half_plane
from invlib.testproblems import epsilon_problem, two_bumps

PROBLEM = epsilon_problem(0.5, 0.3)
IDENTITY = LinearProblem(torch.eye(2), 0.3)
MINIMIZER = LogDetMinimizer(IDENTITY, two_bumps())


def data(problem: LinearProblem, prior: GaussianMixture, count: int = 200) -> Tensor:
    generator = oracles.generator(1)
    return problem.normal_data(problem.measure(prior.sample(count, generator=generator), generator=generator))


def output_score(minimizer: LogDetMinimizer, prior: GaussianMixture, x: Tensor) -> Tensor:
    """grad log q at phi(x), by automatic differentiation of log p_X - log det D phi."""
    points = x.clone().requires_grad_()
    jacobian = minimizer(points)[1]
    (slope,) = torch.autograd.grad((prior.log_prob(points) - jacobian.logdet()).sum(), points)
    return torch.linalg.solve(jacobian.detach().mT, slope.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("std", [0.3, 0.59, 2.0])
def test_it_satisfies_the_equation_of_theorem_1_in_its_norm_and_not_in_the_other(std, whiten):
    """H x = z + delta^2 W^{-1} grad log q(z) at x = phi^{-1}(z): half a per cent of the last term."""
    prior = two_bumps((1.5 * std, 0.8 * std), std)
    problem = epsilon_problem(0.5, 0.5 * std)
    minimizer, z, h = LogDetMinimizer(problem, prior, whiten=whiten), data(problem, prior), problem.normal_operator
    x = minimizer.inverse(z, invlib.posterior_mean(problem, prior, z))
    pull = problem.noise_std**2 * output_score(minimizer, prior, x)
    gap = x @ h - z
    right, wrong = (pull @ h, pull) if whiten else (pull, pull @ h)
    assert (gap - right).norm() < 0.005 * right.norm()
    assert (gap - wrong).norm() > 0.2 * wrong.norm()


def test_bumps_that_nearly_coincide_give_the_filter_of_a_gaussian():
    prior = two_bumps((1e-4, 0.0), std=0.7)
    x = oracles.randn(50, 2, seed=2)
    slope = 0.5 * (1 + math.sqrt(1 + 4 * 0.3**2 / 0.7**2))
    torch.testing.assert_close(LogDetMinimizer(IDENTITY, prior)(x)[0], slope * x, rtol=1e-5, atol=1e-6)


def test_jacobian_and_inverse_belong_to_the_map():
    prior = two_bumps()
    minimizer, x = LogDetMinimizer(PROBLEM, prior), prior.sample(40, generator=oracles.generator(3))
    value, jacobian = minimizer(x)
    expected = torch.autograd.functional.jacobian(lambda points: minimizer(points)[0].sum(0), x).movedim(0, 1)
    torch.testing.assert_close(jacobian, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(minimizer.inverse(value, torch.zeros_like(x)), x, rtol=1e-8, atol=1e-8)


def test_the_inverse_takes_newton_steps(monkeypatch):
    """H does not commute with D phi here: with any other matrix in the place of the Jacobian it takes far more."""
    prior = two_bumps()
    minimizer, x = LogDetMinimizer(PROBLEM, prior), prior.sample(40, generator=oracles.generator(3))
    climb = invlib.log_det_minimizer.maximize
    monkeypatch.setattr(invlib.log_det_minimizer, "maximize", lambda *a, **options: climb(*a, **options, iterations=10))
    torch.testing.assert_close(minimizer.inverse(minimizer(x)[0], 0 * x), x, rtol=1e-8, atol=1e-8)


def test_a_second_spacing_and_any_network_have_a_larger_loss():
    """The value is the infimum: other trial functions reach the same, a network that was trained little stays above."""
    prior = two_bumps()
    exact, other = LogDetMinimizer(IDENTITY, prior), LogDetMinimizer(IDENTITY, prior, spacing=0.85)
    assert other.value == pytest.approx(exact.value, abs=1e-6 * 0.3**2)
    x = prior.from_uniform(
        torch.quasirandom.SobolEngine(3, scramble=True, seed=4).draw(4096, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    )
    net = IResNet(2, dtype=torch.float64, generator=oracles.generator(5))
    invlib.train(net, IDENTITY, prior, "log_det", steps=50, generator=oracles.generator(6))
    assert invlib.log_det_loss(net, x, x, 0.3).item() > exact.value


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("problem", lambda: LogDetMinimizer(LinearProblem([[1.0, 0.0]], 0.1), two_bumps())),
        ("problem", lambda: LogDetMinimizer(LinearProblem(torch.eye(3), 0.1), two_bumps((1.0, 0.0, 0.0)))),
        ("prior", lambda: LogDetMinimizer(IDENTITY, two_bumps((0.0, 0.0)))),
        ("prior", lambda: LogDetMinimizer(IDENTITY, two_bumps((1.0,)))),
        ("prior", lambda: LogDetMinimizer(IDENTITY, oracles.random_mixture(2, 2, seed=7))),
        ("prior", lambda: LogDetMinimizer(IDENTITY, oracles.random_mixture(2, 3, seed=7))),
        ("prior", lambda: LogDetMinimizer(IDENTITY, invlib.LogisticPrior([1.0, 1.0]))),
        ("spacing", lambda: LogDetMinimizer(IDENTITY, two_bumps(), spacing=0.0)),
        ("problem", lambda: LogDetMinimizer(epsilon_problem(1e-9, 0.1), two_bumps())),
        ("prior", lambda: LogDetMinimizer(IDENTITY, two_bumps((30.0, 0.0), std=0.5))),
        ("spacing", lambda: LogDetMinimizer(IDENTITY, two_bumps(), spacing=0.05)),
        ("spacing", lambda: LogDetMinimizer(IDENTITY, two_bumps(), spacing=True)),
        ("whiten", lambda: LogDetMinimizer(IDENTITY, two_bumps(), whiten="no")),
        *[
            ("guess", lambda bad=bad: MINIMIZER.inverse(torch.zeros(1, 2, dtype=torch.float64), bad))
            for bad in (torch.zeros(5, 2).double(), torch.zeros(1, 2), torch.zeros(2).double(), [[0.0, 0.0]])
        ],
        ("z", lambda: MINIMIZER.inverse(torch.zeros(2, dtype=torch.float64), torch.zeros(5, 2).double())),
        ("z", lambda: LogDetMinimizer(IDENTITY, two_bumps()).inverse(torch.full((1, 2), torch.nan), torch.zeros(1, 2))),
        ("x", lambda: LogDetMinimizer(IDENTITY, two_bumps())(torch.zeros(4, 3, dtype=torch.float64))),
    ],
)
def test_bad_input_is_named(name, make):
    with pytest.raises(ValueError, match=f"^{name} must"):
        make()


def test_what_is_not_reached_raises(monkeypatch):
    """The iteration is cut after one step by hand: both places that climb must notice."""
    minimizer, ones = LogDetMinimizer(IDENTITY, two_bumps()), torch.ones(1, 2, dtype=torch.float64)
    climb = invlib.log_det_minimizer.maximize
    monkeypatch.setattr(invlib.log_det_minimizer, "maximize", lambda *a, **options: climb(*a, **options, iterations=1))
    with pytest.raises(invlib.ConvergenceError, match="minimizer was not reached"):
        LogDetMinimizer(IDENTITY, two_bumps())
    with pytest.raises(invlib.ConvergenceError, match="inverse was not reached for 1 of 1 data"):
        minimizer.inverse(ones, 0 * ones)


@pytest.mark.parametrize("x", [torch.ones(1, 2), torch.ones(2, dtype=torch.float64)])
def test_points_of_another_dtype_or_shape_are_named(x):
    with pytest.raises(ValueError, match=r"^x must have shape \(B, 2\) and dtype float64"):
        LogDetMinimizer(IDENTITY, two_bumps())(x)


def test_the_half_plane_is_that_of_the_first_bump():
    prior = GaussianMixture([0.5, 0.5], [[3.0, 4.0], [-3.0, -4.0]], torch.eye(2).expand(2, 2, 2))
    axes = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    points, mass = _half_plane(prior, axes, 1.0)
    torch.testing.assert_close(mass @ points, prior.means[0], rtol=0, atol=1e-4)
