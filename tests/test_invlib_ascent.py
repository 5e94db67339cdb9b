"""Tests of `invlib.ascent`: it climbs from everywhere, to rounding accuracy, and says where it did not arrive."""

from collections.abc import Callable

import oracles
import pytest
import torch
from torch import Tensor

from invlib.ascent import maximize

Function = Callable[[Tensor], Tensor]


def derivatives(function: Function) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Gradient and Hessian of a function of one point, by automatic differentiation, at points (..., n)."""
    gradient = torch.func.grad(function)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        points = x.reshape(-1, x.shape[-1])
        slopes, hessians = torch.func.vmap(gradient)(points), torch.func.vmap(torch.func.jacrev(gradient))(points)
        return slopes.reshape(x.shape), hessians.reshape(*x.shape, x.shape[-1])

    return both


def camel(x: Tensor) -> Tensor:
    """Minus the six-hump camel function: two highest peaks, four lower ones, saddles between."""
    a, b = x[..., 0], x[..., 1]
    return -((4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (-4 + 4 * b**2) * b**2)


def test_a_quadratic_takes_one_step_and_another_to_notice():
    matrix = oracles.randn(3, 3, seed=1)
    matrix = matrix @ matrix.T + torch.eye(3, dtype=torch.float64)
    centre, starts = oracles.randn(3, seed=2), oracles.randn(4, 5, 3, seed=3)

    def bowl(x: Tensor) -> Tensor:
        return -0.5 * ((x - centre) @ matrix * (x - centre)).sum(-1)

    points, settled = maximize(bowl, derivatives(bowl), starts, iterations=2)
    assert bool(settled.all())
    torch.testing.assert_close(points, centre.expand_as(points), rtol=1e-12, atol=1e-12)
    assert not bool(maximize(bowl, derivatives(bowl), starts, iterations=1)[1].any())


def test_every_start_reaches_a_peak_and_none_descends():
    """Also from places where the function is convex or a saddle, where a plain Newton step goes down."""
    starts = torch.from_numpy(oracles.grid(2, 1.9, 41)) + 0.003  # 0 is a saddle, which no step leaves
    starts = starts[camel(starts) > -6]
    points, settled = maximize(camel, derivatives(camel), starts)
    assert bool(settled.all())
    slopes, hessians = derivatives(camel)(points)
    assert float(slopes.norm(dim=-1).max()) < 1e-10
    assert float(torch.linalg.eigvalsh(hessians)[:, -1].max()) < 0
    assert bool((camel(points) >= camel(starts) - 1e-12).all())
    assert camel(points).max().item() == pytest.approx(1.031628453489877, abs=1e-12)  # Dixon & Szego 1978
    step = torch.linalg.solve(derivatives(camel)(starts)[1], derivatives(camel)(starts)[0].unsqueeze(-1)).squeeze(-1)
    assert float((camel(starts - step) < camel(starts)).double().mean()) > 0.2  # the plain step would


def test_a_tail_without_curvature_is_climbed_by_short_steps():
    """log(1 / cosh^2) is nearly linear far out: a Newton step from 300 would overshoot by a factor of e^300."""

    def hill(x: Tensor) -> Tensor:
        return -2 * torch.logaddexp(x, -x).sum(-1) - 0.01 * x.square().sum(-1)

    points, settled = maximize(hill, derivatives(hill), torch.tensor([[300.0], [-40.0]], dtype=torch.float64))
    assert bool(settled.all())
    assert float(points.abs().max()) < 1e-9


def test_a_flat_peak_is_reached_to_the_root_of_the_rounding_error():
    def flat(x: Tensor) -> Tensor:
        return -x.square().sum(-1).square()

    points, settled = maximize(flat, derivatives(flat), oracles.randn(50, 2, seed=4))
    assert bool(settled.all())
    assert float(points.abs().max()) < 1e-4


def test_a_region_that_is_not_a_number_is_not_entered():
    def barrier(x: Tensor) -> Tensor:
        return (x.log() - x).sum(-1)  # nan for x < 0, where the Newton step from x > 2 leads

    points, settled = maximize(barrier, derivatives(barrier), torch.tensor([[3.0], [50.0]], dtype=torch.float64))
    assert bool(settled.all())
    torch.testing.assert_close(points, torch.ones_like(points), rtol=1e-9, atol=0)
