"""Tests of the MAP estimate: the highest mode, certified, whatever the order of the components, or a warning."""

import math

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

import invlib
from invlib import GaussianMixture, LinearProblem, NotSecuredWarning, Prior, modes
from invlib.modes import _third
from invlib.priors import Components

F64 = torch.float64
IDENTITY = LinearProblem(torch.eye(2), 1.0)


def thin_mixture(components: int, seed: int, aspect: float = 50.0) -> GaussianMixture:
    """Components in the plane with standard deviations 1 and 1 / aspect, in random directions."""
    rng = np.random.default_rng(seed)
    means = 2 * rng.normal(size=(components, 2))
    angle = rng.uniform(0, np.pi, components)
    along = np.stack([np.cos(angle), np.sin(angle)], -1)
    outer = along[:, :, None] * along[:, None]
    covariances = outer + (np.eye(2) - outer) / aspect**2
    return GaussianMixture(np.full(components, 1 / components), means, covariances)


def log_posterior(problem: LinearProblem, prior: Prior, z: Tensor, x: Tensor) -> Tensor:
    """log p(x | z) up to a number that depends on z, for an invertible operator."""
    y = torch.linalg.solve(problem.operator.mT, z)
    return prior.log_prob(x) - 0.5 * (y - x @ problem.operator.mT).square().sum(-1) / problem.noise_std**2


def highest_by_force(prior: GaussianMixture, z: Tensor) -> float:
    """The largest value at all means and pair products of the posterior, and on fine grids around the best of them."""
    precisions = torch.linalg.inv(prior.covariances)
    posterior = precisions + torch.eye(2, dtype=F64)
    pull = (precisions @ prior.means.unsqueeze(-1)).squeeze(-1) + z
    i, j = torch.triu_indices(len(pull), len(pull))
    centres = torch.linalg.solve(posterior[i] + posterior[j], (pull[i] + pull[j]).unsqueeze(-1)).squeeze(-1)
    best = centres[log_posterior(IDENTITY, prior, z, centres).topk(min(40, len(centres))).indices]
    for width in (0.1, 0.01):
        grid = torch.from_numpy(oracles.grid(2, width, 21))
        points = (best.unsqueeze(1) + grid).reshape(-1, 2)
        best = points[log_posterior(IDENTITY, prior, z, points).topk(8).indices]
    return float(log_posterior(IDENTITY, prior, z, best).max())


@pytest.mark.parametrize("components", [5, 12, 24, 36, 50])
def test_no_thin_mixture_in_the_plane_has_a_higher_point_and_the_order_does_not_matter(components):
    """200 random mixtures; the bound on what could be missed is below 1e-6."""
    for seed in range(40):
        prior = thin_mixture(components, seed=1000 * components + seed)
        z = 1.5 * oracles.randn(2, seed=seed)
        solution = invlib.map_solution(IDENTITY, prior, z)
        assert bool(solution.secured)
        assert float(solution.gap) <= 1e-6
        assert float(solution.log_posterior) >= highest_by_force(prior, z) - 1e-9

        order = np.random.default_rng(seed).permutation(components)
        other = GaussianMixture(prior.weights[order], prior.means[order], prior.covariances[order])
        moved = invlib.map_estimate(IDENTITY, other, z)
        torch.testing.assert_close(moved, solution.x, rtol=0, atol=1e-9)


def test_equal_modes_do_not_depend_on_the_order_either():
    """Four bumps on a square: the data in the middle see four modes of equal height."""
    means = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=F64)
    z = torch.zeros(2, dtype=F64)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        prior = GaussianMixture([0.25] * 4, means[order], 0.05 * torch.eye(2).expand(4, 2, 2))
        x = invlib.map_estimate(IDENTITY, prior, z)
        assert bool((x > 0.5).all())


@pytest.mark.parametrize("dim", [1, 2, 5, 12])
@pytest.mark.parametrize("seed", range(8))
def test_two_components_are_secured_in_any_dimension(dim, seed):
    """Against climbs from 200 points on and around the segment between the means."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(2, dim, dim)) * 10 ** rng.uniform(-1.5, 0.3, size=(2, 1, dim))
    covariances = factors @ factors.transpose(0, 2, 1) + 1e-4 * np.eye(dim)
    prior = GaussianMixture([0.4, 0.6], rng.normal(size=(2, dim)), covariances)
    problem = LinearProblem(torch.eye(dim), 1.0)
    z = oracles.randn(3, dim, seed=seed)
    solution = invlib.map_solution(problem, prior, z)
    assert bool(solution.secured.all())
    assert float(solution.gap.max()) <= 1e-9
    assert float(solution.gap.min()) >= 0

    share = torch.rand(200, 1, dtype=F64, generator=oracles.generator(seed))
    points = prior.means[0] + share * (prior.means[1] - prior.means[0]) + 0.3 * oracles.randn(200, dim, seed=seed + 1)

    def value(x: Tensor, data: Tensor) -> Tensor:
        return prior.log_prob(x) - 0.5 * (data - x).square().sum(-1)

    def derivatives(x: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
        return prior.score(x) + data - x, prior.hessian(x) - torch.eye(dim, dtype=F64)

    for datum, height in zip(z, solution.log_posterior, strict=True):
        data = datum.expand(200, dim)
        climbed, _ = invlib.maximize(value, derivatives, points, data=(data,))
        assert float(height) >= float(value(climbed, data).max()) - 1e-9


def test_the_bound_of_third_derivatives_holds_on_a_fine_grid():
    distance = torch.linspace(0, 6, 6001, dtype=F64)
    along = torch.linspace(-1, 1, 401, dtype=F64).unsqueeze(-1) * distance
    largest = ((3 * along - along**3).abs() * torch.exp(-0.5 * distance.square())).amax(0)
    beyond = largest.flip(0).cummax(0).values.flip(0)
    assert bool((_third(distance) >= beyond).all())


def test_what_is_not_secured_warns_and_local_accepts_it():
    """Six overlapping components in five dimensions: no bound is at hand."""
    prior = oracles.random_mixture(5, 6, seed=1, spread=0.7)
    problem, z = LinearProblem(torch.eye(5), 2.0), oracles.randn(3, 5, seed=2)
    solution = invlib.map_solution(problem, prior, z)
    assert not bool(solution.secured.any())
    assert bool((solution.gap > 1e-6).all())
    with pytest.warns(NotSecuredWarning, match="3 of 3 estimates may be local maxima .*larger elsewhere by up to"):
        x = invlib.map_estimate(problem, prior, z)
    assert torch.equal(x, invlib.map_estimate(problem, prior, z, local=True))

    free = Prior.from_log_density(5, prior.log_prob)
    assert bool(invlib.map_solution(problem, free, z).gap.isinf().all())
    with pytest.warns(NotSecuredWarning, match="no bound is known"):
        invlib.map_estimate(problem, free, z)


def test_components_that_lie_far_apart_are_secured_in_64_dimensions():
    means = 20 * oracles.randn(10, 64, seed=3)
    prior = GaussianMixture([0.1] * 10, means, torch.eye(64).expand(10, 64, 64))
    problem = LinearProblem(torch.eye(64), 0.3)
    z = problem.normal_data(problem.measure(prior.sample(20, generator=oracles.generator(4))))
    solution = invlib.map_solution(problem, prior, z)
    assert bool(solution.secured.all())


def test_a_log_concave_prior_of_ten_dimensions_is_secured_and_right():
    """p(x) = exp(-|x|^4): the MAP estimate for A = Id points along z, and solves r + 4 delta^2 r^3 = |z|."""
    prior = Prior.from_log_density(10, lambda x: -x.square().sum(-1).square(), log_concave=True)
    z = oracles.randn(4, 10, seed=5)
    x = invlib.map_estimate(LinearProblem(torch.eye(10), 0.5), prior, z)
    radius = x.norm(dim=-1)
    torch.testing.assert_close(radius + 4 * 0.25 * radius**3, z.norm(dim=-1), rtol=1e-9, atol=0)
    torch.testing.assert_close(x / radius.unsqueeze(-1), z / z.norm(dim=-1, keepdim=True), rtol=1e-8, atol=1e-8)


def test_posterior_moments_are_the_three_estimators_at_once():
    prior, problem = oracles.random_mixture(2, 3, seed=6), LinearProblem(oracles.random_operator(3, 2, seed=7), 0.4)
    for other in (prior, invlib.LogisticPrior([0.5, 1.0])):
        z = problem.normal_data(oracles.randn(2, 3, 3, seed=8))
        log_mass, mean, covariance = invlib.posterior_moments(problem, other, z)
        torch.testing.assert_close(log_mass, invlib.log_evidence(problem, other, z), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mean, invlib.posterior_mean(problem, other, z), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(covariance, invlib.posterior_covariance(problem, other, z), rtol=1e-12, atol=1e-12)
    wide = LinearProblem([[1.0, 0.5]], 0.4)
    assert math.isnan(float(invlib.posterior_moments(wide, prior, wide.normal_data(torch.ones(1))).log_mass))


# Parts of the search


def components(count: int, dim: int, seed: int = 1) -> Components:
    """One mixture, far from the origin and long in one direction: so coordinates cannot be mixed up."""
    whiteners = oracles.randn(count, dim, dim, seed=seed) + 2 * torch.eye(dim, dtype=F64)
    whiteners[..., 0] *= 0.1
    means = 3 + 2 * oracles.randn(1, count, dim, seed=seed + 1)
    return Components(torch.full((1, count), -math.log(count), dtype=F64), means, whiteners)


def density(mixture: Components, points: Tensor) -> Tensor:
    """The log-density of the one mixture at points (P, n)."""
    return Components(mixture.log_weights[0], mixture.means[0], mixture.whiteners).log_prob(points)


@pytest.mark.parametrize("seed", range(5))
def test_the_box_holds_all_points_that_are_higher(seed):
    mixture = components(4, 2, seed)
    height = density(mixture, mixture.means[0]).min()
    land = modes._Landscape(mixture, height[None])
    centre, half = land.region()
    spread = torch.linalg.inv(mixture.whiteners)
    noise = torch.einsum("kij,pj->pki", spread, oracles.randn(4000, 2, seed=seed))
    points = (mixture.means[0] + noise).flatten(0, 1)
    higher = points[density(mixture, points) > height] @ torch.linalg.inv(land.to_x)
    assert len(higher) > 1000
    assert bool(((higher - centre).abs() <= half).all())


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0])
def test_the_bound_over_a_box_is_above_its_points_and_near_them_if_the_box_is_small(size):
    mixture = components(4, 2)
    land = modes._Landscape(mixture, density(mixture, mixture.means[0]).max()[None])
    centre = land.means[0].mean(0) + 2 * oracles.randn(30, 2, seed=3)
    half = torch.full((30, 2), size, dtype=F64)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)
    radius = torch.einsum("kij,sj,bj->bksi", land.whiteners, corners, half).norm(dim=-1).amax(-1)
    above, value = land.bounds(torch.zeros(30, dtype=torch.long), centre, half, radius)
    assert (value - (density(mixture, centre @ land.to_x) - land.heights)).abs().max() < 1e-10
    inside = centre.unsqueeze(1) + half.unsqueeze(1) * (2 * torch.rand(30, 200, 2, generator=oracles.generator(4)) - 1)
    heights = density(mixture, (inside @ land.to_x).flatten(0, 1)).unflatten(0, (30, 200)) - land.heights
    assert bool((above >= heights.amax(-1) - 1e-10).all())
    if size == 1e-3:
        assert (above - value).max() < 0.05


def test_a_higher_box_moves_the_best_point_there():
    """With standard deviations of 10, so that the coordinates of the search are ten times smaller than those of x."""
    means = torch.tensor([[[0.0, 0.0], [40.0, 0.0], [0.0, 400.0]]], dtype=F64)
    mixture = Components(
        torch.tensor([[0.2, 0.6, 0.2]], dtype=F64).log(), means, 0.1 * torch.eye(2).expand(3, 2, 2).double()
    )
    heights = density(mixture, means[0])
    land = modes._Landscape(mixture, heights[:1])
    points, settled = means[:, 0].clone(), torch.tensor([False])
    centre = means[:, 1] @ torch.linalg.inv(land.to_x)
    modes._improve(mixture, land, points, settled, torch.tensor([0]), centre, heights[1:2] - heights[0])
    assert bool(settled.all())
    assert float(land.heights) >= float(heights[1])
    assert float((points - means[:, 1]).norm()) < 1


def test_a_search_that_is_cut_off_secures_nothing(monkeypatch):
    prior = thin_mixture(12, seed=7)
    assert bool(invlib.map_solution(IDENTITY, prior, torch.ones(2, dtype=F64)).secured)
    monkeypatch.setattr(modes, "LEVELS", 2)
    assert not bool(invlib.map_solution(IDENTITY, prior, torch.ones(2, dtype=F64)).secured)


def test_components_one_by_one_are_bounded_the_same_wherever_they_are():
    means = torch.zeros(1, 3, 5, dtype=F64)
    means[0, :, 0] = torch.tensor([0.0, 4.0, 8.0])
    mixture = Components(torch.full((1, 3), -math.log(3), dtype=F64), means, torch.eye(5, dtype=F64).expand(3, 5, 5))
    height = density(mixture, means[0]).min()[None] - 0.5
    bound = modes._bound_one_by_one(mixture, height)
    for shift in (-4, 20):
        moved = Components(mixture.log_weights, means + shift, mixture.whiteners)
        torch.testing.assert_close(modes._bound_one_by_one(moved, height), bound, rtol=1e-9, atol=1e-12)
    assert 0.5 <= float(bound) < 2


def test_a_component_reaches_as_far_as_it_is_high():
    drop = torch.tensor([-1.0, 0.0, 0.5, 8.0], dtype=F64)
    torch.testing.assert_close(modes._reach(drop), torch.tensor([0.0, 0.0, 1.0, 4.0], dtype=F64), rtol=0, atol=1e-4)


def test_bisection_ends_at_a_root():
    ridge, owner = modes._Ridge(components(2, 3)), torch.tensor([0])
    root = modes._bisect(ridge, owner, *ridge.ends())
    from_first, from_second, _ = ridge.terms(owner, root)
    assert abs(float(ridge.log_ratio(owner, from_first, from_second) - root)) < 1e-9
