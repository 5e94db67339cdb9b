"""Formulas in the checks of which a check asserts an inequality at most: here each is compared with another way."""

import math

import pytest
import torch
from checks import (
    ablations,
    choosing,
    divergence,
    error_bars,
    inside_invlib,
    invertibility,
    learned_grids,
    local_fields,
    log_determinant,
    noise_levels,
    nonlinear_operators,
    point_estimators,
    residual_networks,
    signals,
)
from checks.minimizers import DELTA, minimizer_on_line, square_grid
from checks.tools import quadrature, random_problem, rms, seeded

import invlib
from invlib import GaussianMixture, LinearProblem, testproblems

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch, of itself: forward mode

PRIOR = testproblems.two_bumps((0.8, 0.5))
STRENGTH = 0.6


def points(count: int = 7, dim: int = 2) -> torch.Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=seeded(0))


def gap(left: object, right: object) -> float:
    return float((torch.as_tensor(left) - torch.as_tensor(right)).abs().max())


def test_the_best_map_is_the_same_in_all_chapters():
    problem = LinearProblem([[1.0, 0.3], [0.0, 0.7]], noise_std=STRENGTH)
    plain, x = LinearProblem(torch.eye(2).double(), noise_std=STRENGTH), points()
    best = divergence.optimal_map(problem, PRIOR, STRENGTH, x)
    assert gap(signals.optimal_map(problem, PRIOR, x), best) < 1e-14
    assert gap(torch.stack([error_bars.optimal_map(problem, PRIOR, each) for each in x]), best) < 1e-14
    assert gap(ablations.optimal_map(PRIOR, x, STRENGTH), divergence.optimal_map(plain, PRIOR, STRENGTH, x)) < 1e-14
    value, slopes = choosing.optimal_map(x, problem.normal_operator, STRENGTH)
    assert gap(value, divergence.optimal_map(problem, choosing.PRIOR, STRENGTH, x)) < 1e-14
    assert (
        gap(
            slopes,
            torch.vmap(
                torch.func.jacrev(lambda each: choosing.optimal_map(each, problem.normal_operator, STRENGTH)[0])
            )(x),
        )
        < 1e-12
    )
    assert (
        gap(
            signals.optimal_slopes(problem, PRIOR, x),
            torch.vmap(torch.func.jacrev(lambda each: signals.optimal_map(problem, PRIOR, each)))(x),
        )
        < 1e-12
    )


def test_the_least_loss_is_that_of_the_best_map():
    """A quasi-random sample: the mean of the divergence of the score is minus that of its square up to 1e-3."""
    fresh = invlib.quasi_sample(PRIOR, 2**14, seed=4)
    misfit = 0.5 * (ablations.optimal_map(PRIOR, fresh, STRENGTH) - fresh).square().sum(-1)
    loss = (misfit - STRENGTH**2 * ablations.optimal_divergence(PRIOR, fresh, STRENGTH)).mean()
    assert abs(float(loss) - ablations.least_loss(PRIOR, fresh, STRENGTH)) < 1e-2


def test_the_loss_of_a_steep_flow_counts_its_misfit():
    """Off the samples, where points move; derivatives by differences of values."""
    samples, rho = ablations.separated_samples()
    flow = ablations.SteepFlow(samples, rho, 1.0)
    x = samples + 0.2 * rho
    step = 1e-5 * torch.eye(2).double()
    divergence_ = sum((flow(x + each) - flow(x - each)) @ each for each in step) / (2 * 1e-10)
    misfit = 0.5 * (flow(x) - x).norm(dim=-1) ** 2
    expected = (misfit - ablations.NOISE_STD**2 * divergence_).mean()
    assert misfit.min() > 1e-5
    assert abs(float(expected) - flow.mean_loss(x)) < 1e-7


def test_the_posterior_mean_on_the_line_is_an_average_over_the_posterior():
    prior, problem = error_bars.line()
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    z = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    h, noise2 = problem.normal_operator, problem.noise_std**2
    weight = torch.softmax(prior.log_prob(x) + (x @ z.mT - 0.5 * h * x.square()).mT / noise2, -1)
    assert gap(error_bars.pm_line(z), weight @ x) < 1e-10


def test_the_average_bound_has_the_excess_loss_in_it():
    """Half the mean square distance to phi*, which is 0.2 sin(x)."""
    problem = random_problem(2, 2, seeded(1), noise_std=0.5)
    x, w = quadrature(PRIOR, 12.0, 0.2)
    phi = divergence.optimal_map(problem, PRIOR, 0.5, x) + 0.2 * torch.sin(x)
    miss = (x - invlib.map_estimate(problem, PRIOR, phi)).square().sum(-1) @ w
    excess = 0.5 * (0.2 * torch.sin(x)).square().sum(-1) @ w
    assert abs(divergence.average_bound(problem, PRIOR, 0.7) / float(miss * 0.7**2 / (2 * excess)) - 1) < 1e-9


def test_the_floor_of_the_last_residual():
    nothing = dict.fromkeys(inside_invlib.Stopped._fields, 0.0)
    stopped = inside_invlib.Stopped(**nothing | {"limit": 0.5, "gamma": 2.0})
    assert stopped.floor == 3 * 3 * 2.0  # (1 + L) / (1 - L) = 3


def test_how_far_mode_and_mean_are_apart():
    case = learned_grids.Geometry(learned_grids.bumps(), 0.2, count=50)
    exact = (
        invlib.map_estimate(case.problem, case.prior, case.z),
        invlib.posterior_mean(case.problem, case.prior, case.z),
    )
    assert abs(float(case.apart) - float(torch.dist(*exact)) / math.sqrt(50)) < 1e-12


def test_the_ascent_of_the_contest_ends_at_the_map_estimates():
    geometries = invertibility.plane_geometries()
    trial = invertibility.plane_trial(geometries, 100, members=1)
    normal = torch.stack([each.problem.normal_operator for each in geometries])
    noise = torch.tensor([each.problem.noise_std for each in geometries])[:, None, None]

    def best(x: torch.Tensor) -> torch.Tensor:
        scores = torch.stack([each.prior.score(part) for each, part in zip(geometries, x, strict=True)])
        return x @ normal - noise**2 * scores

    root = torch.eye(2, dtype=torch.float64).expand(len(geometries), 2, 2)
    found, solved = invertibility.ascend(best, trial.z, torch.zeros_like(trial.z), root)
    assert solved.all()
    assert gap(found, trial.mode) < 1e-5
    means = [invlib.posterior_mean(each.problem, each.prior, z) for each, z in zip(geometries, trial.z, strict=True)]
    assert gap(torch.stack(means), trial.mean) < 1e-6


@pytest.mark.parametrize("name", ["naive", "wiener", "map", "mean"])
def test_an_exact_map_takes_its_reconstructions_to_the_data(name):
    scene = noise_levels.scene(0.3, 20.0, eps=0.5, count=40)
    back = noise_levels.Scene(scene.problem, scene.prior, scene.reconstruction(name), scene.z)
    assert gap(back.forward_map(name), scene.z) < 1e-8


def test_the_filter_of_a_scene_is_the_posterior_mean_of_a_gaussian():
    law = GaussianMixture([1.0], [[0.0, 0.0]], [[[0.8, 0.2], [0.2, 0.5]]])
    scene = noise_levels.scene(0.3, 20.0, law, eps=0.5, count=40)
    assert gap(scene.reconstruction("wiener"), scene.mean) < 1e-12


def test_the_best_block_of_a_field_has_slopes_between_its_bounds():
    """2c/(C + c) = 1 - q and 2C/(C + c) = 1 + q, where c and C are the bounds of the best map."""
    field = local_fields.Field(4, 4)
    block = local_fields.BestBlock(field)
    ends = block.factor * torch.tensor(field.reach(local_fields.NOISE)) - 1
    assert gap(ends, [-block.lipschitz, block.lipschitz]) < 1e-6
    assert 0 < block.lipschitz < 1


def test_the_maps_of_the_line_have_their_slopes():
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    shifted = (log_determinant.some_maps(x + step, 0.8) for step in (1e-5, -1e-5))
    quotients = [(after - before) / 2e-5 for (after, _), (before, _) in zip(*shifted, strict=True)]
    for quotient, (_, slope) in zip(quotients, log_determinant.some_maps(x, 0.8), strict=True):
        assert gap(quotient, slope) < 1e-8


def test_potential_and_density_of_a_minimizer_differ_by_a_square_between_the_nodes():
    """tau (log q)' = w' - z at the minimizer. An error of second order in the step of the grid."""
    line = minimizer_on_line(log_determinant.PRIOR, 0.8, DELTA**2, count=2001)
    potential, log_q = log_determinant.potential_and_log_density(line)
    z = torch.linspace(-1.5, 1.5, 1001, dtype=torch.float64)
    constant = line.tau * log_q(z) - potential(z) + 0.5 * z.square()
    assert float(constant.max() - constant.min()) < 1e-5


def test_the_second_solver_on_the_line_knows_a_gaussian():
    """Mean 0.5: the minimizer is a line through its fixed point (0.5, 0.5), where half of the line begins."""
    slope = log_determinant.gaussian_slope(1.0, 0.3, 0.49)
    solved = log_determinant.minimizer_by_equation(lambda x: -(x - 0.5) / 0.49, 0.3, ((0.5, -1.0), (3.0, slope)))
    x = torch.linspace(0.5, 3, 11, dtype=torch.float64)
    assert gap(solved(x.numpy())[0], 0.5 + slope * (x - 0.5)) < 1e-7


def test_twice_the_whole_step_is_as_far_off_as_no_step():
    """It goes from H^{-1}z to the posterior mean, up to the error of the plain minimizer, and as far beyond."""
    errors = log_determinant.half_errors((0.1,))
    naive = log_determinant.WIDE.sample(200, generator=seeded(11))
    problem = log_determinant.squeezed(0.1)
    step = rms(naive - invlib.posterior_mean(problem, log_determinant.WIDE, naive @ problem.normal_operator))
    assert abs(errors["full"][0] - step) < 2 * errors["plain"][0] < 0.1 * step


def test_a_square_grid_surrounds_its_centre():
    points, cell = square_grid(torch.tensor([1.0, -2.0]).double(), 0.5, 3)
    assert points.amin(0).tolist() == [0.5, -2.5]
    assert points[1].tolist() == [0.5, -2.0]
    assert cell == 0.25


def test_at_temperature_one_the_gap_is_that_of_mean_and_mode():
    """The largest over data in [-1.5, 1.5], from closed forms; sums over a grid of 0.001 are exact to 1e-6."""
    prior = GaussianMixture([0.4, 0.6], [[-0.7], [0.6]], [[[0.3]], [[0.4]]])
    problem, z = point_estimators.LINE, torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)[:, None]
    expected = gap(invlib.posterior_mean(problem, prior, z), invlib.map_estimate(problem, prior, z))
    assert expected > 0.01
    assert abs(point_estimators._tempered_gap(prior, 1.0) - expected) < 1e-6


def test_the_covariance_of_points_and_readings_is_lopsided_by_its_odd_part():
    case = nonlinear_operators.tweedie_cases()[0]
    cross = case.covariance(case.points)
    odd = cross[:, 0, 1] - cross[:, 1, 0]
    expected = odd.abs().max() / cross.abs().max()
    assert abs(nonlinear_operators.check_no_tweedie()["lopsided"] - float(expected)) < 1e-12


def test_the_moments_on_points_are_those_of_the_library():
    prior, problem, z = PRIOR, LinearProblem([[1.0, 0.3], [0.0, 0.7]], noise_std=STRENGTH), points()
    mean, covariance = point_estimators.moments_on(*quadrature(prior, 8.0, 0.1), problem, z)
    assert gap(mean, invlib.posterior_mean(problem, prior, z)) < 1e-10
    assert gap(covariance, invlib.posterior_covariance(problem, prior, z)) < 1e-10


def test_between_two_equal_bumps_both_suprema_are_equal():
    found = point_estimators.supremum(LinearProblem(torch.eye(2).double(), 0.3), PRIOR, torch.zeros(1, 2).double())
    assert float(found.value) < -0.1
    assert abs(float(found.lead)) < 1e-12


def test_a_wave_of_slopes_has_the_slopes_of_blocks_and_is_taken_apart_into_them():
    x = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    slopes = residual_networks.slope_wave(3, 0.5)(x)
    assert gap([slopes.min(), slopes.max()], [0.5**3, 1.5**3]) < 1e-5
    assert len(residual_networks.take_apart(x, 2 * x, 3)) == 3 + 1


def test_standard_variables_come_from_the_symmetric_root():
    problem = random_problem(2, 2, seeded(1), noise_std=0.5)
    root = signals.standard(problem, PRIOR)
    assert gap(root, root.mT) < 1e-12
    assert gap(root @ root @ signals.best_affine(problem, PRIOR), torch.eye(2)) < 1e-10


def test_the_prior_of_the_signals_is_a_mixture_on_a_symmetric_grid():
    assert signals.Signals(8).grid.tolist() == [(2 * k + 1) / 16 for k in range(8)]
    factor = torch.tensor([[1.0, 0.0], [0.7, 0.5]]).double()
    mixture = signals.CommonCovariance([0.4, 0.6], points(2), (factor @ factor.mT).expand(2, 2, 2))
    chosen, normal = torch.tensor([0, 1, 1, 0]), points(4)
    assert gap(mixture._place(chosen, normal), GaussianMixture._place(mixture, chosen, normal)) < 1e-14


def test_the_largest_distance_of_two_components_is_theirs():
    problem = random_problem(2, 2, seeded(1), noise_std=0.5)
    distance = float(signals.geometry(problem, PRIOR).d)
    assert distance > 0.1
    assert abs(signals.largest_distance(problem, PRIOR) / distance - 1) < 1e-9


def test_off_the_diagonal_and_the_bound_of_the_rank_one_formula():
    assert float(signals.off_diagonal(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))) == 2 * (4 + 4)
    problem = random_problem(2, 2, seeded(1), noise_std=0.5)
    formula = signals.rank_one(problem, PRIOR, points(), signals.standard(problem, PRIOR))
    assert abs(formula.bound / float(formula.beta @ formula.beta) ** 2 - 1 / 8) < 1e-9
