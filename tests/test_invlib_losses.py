"""Tests of `invlib.losses`: values, members, and the identities of Theorems 1 and 2 by quadrature."""

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

import invlib
from invlib import GaussianMixture, IResNet, LinearProblem
from invlib.objective import Objective

LOSSES = {
    "approximation": invlib.approximation_loss,
    "reconstruction": invlib.reconstruction_loss,
    "log_det": invlib.log_det_loss,
    "divergence": invlib.divergence_loss,
}
REGULARIZED = ["log_det", "divergence"]


def evaluate(name: str, net: object, x: Tensor, z: Tensor, strength: float | Tensor = 0.4) -> Tensor:
    return LOSSES[name](net, x, z, strength) if name in REGULARIZED else LOSSES[name](net, x, z)


def direct(name: str, net: IResNet, x: Tensor, z: Tensor, strength: float) -> float:
    """The formulas of the mathematics, point by point, with Jacobians by torch.func."""
    parameters = [p.detach() for p in net.parameters()]
    total = 0.0
    for point, datum in zip(x, z, strict=True):
        if name == "reconstruction":
            total += 0.5 * float((net.inverse(datum, tol=1e-13).detach() - point).square().sum())
            continue
        total += 0.5 * float((oracles.plain_network(parameters, point, net.lipschitz) - datum).square().sum())
        jacobian = oracles.plain_jacobians(net, point[None])[0].numpy()
        if name == "log_det":
            total -= strength**2 * np.log(abs(np.linalg.det(jacobian)))
        if name == "divergence":
            total -= strength**2 * np.trace(jacobian)
    return total / len(x)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_loss_of_a_single_network_is_its_formula(name, dim):
    net = oracles.random_network(dim, seed=dim, gain=2.0)
    x, z = oracles.randn(12, dim, seed=2), oracles.randn(12, dim, seed=3)
    loss = evaluate(name, net, x, z)
    assert loss.shape == ()
    # The inverse of the reconstruction loss is taken at tol = 1e-4, then squared by the attached Newton step.
    assert loss.item() == pytest.approx(direct(name, net, x, z, 0.4), rel=1e-5 if name == "reconstruction" else 1e-11)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("members", [1, 3])
def test_loss_of_an_ensemble_has_one_value_per_member(name, members):
    net = oracles.random_network(2, seed=4, members=members)
    x, z = oracles.randn(members, 9, 2, seed=5), oracles.randn(members, 9, 2, seed=6)
    strengths = torch.linspace(0.2, 0.9, members, dtype=torch.float64)
    loss = evaluate(name, net, x, z, strengths)
    assert loss.shape == (members,)
    for e in range(members):
        alone = evaluate(name, oracles.member(net, e), x[e], z[e], float(strengths[e]))
        assert loss[e].item() == pytest.approx(alone.item(), rel=1e-6)
        expected = direct(name, oracles.member(net, e), x[e], z[e], float(strengths[e]))
        assert loss[e].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", REGULARIZED)
def test_one_strength_serves_all_members(name):
    net = oracles.random_network(2, seed=7, members=2)
    x, z = oracles.randn(2, 9, 2, seed=8), oracles.randn(2, 9, 2, seed=9)
    torch.testing.assert_close(
        evaluate(name, net, x, z, 0.3), evaluate(name, net, x, z, torch.tensor([0.3, 0.3], dtype=torch.float64))
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_the_loss_equals_finite_differences(name):
    net = oracles.random_network(2, seed=10, gain=2.0)
    x, z = oracles.randn(12, 2, seed=11), oracles.randn(12, 2, seed=12)

    def loss() -> Tensor:
        if name == "reconstruction":  # the same formula at a tighter tolerance
            return 0.5 * (net.inverse(z, tol=1e-13) - x).square().sum(-1).mean()
        return evaluate(name, net, x, z)

    gradients = torch.autograd.grad(evaluate(name, net, x, z), list(net.parameters()), allow_unused=True)
    for index, (parameter, gradient) in enumerate(zip(net.parameters(), gradients, strict=True)):
        direction = oracles.randn(*parameter.shape, seed=13 + index)
        slope = float(oracles.directional_difference(loss, parameter, direction, 1e-6))
        ours = 0.0 if gradient is None else (gradient * direction).sum().item()
        tolerance = 1e-3 if name == "reconstruction" else 1e-6  # first order in the tolerance 1e-4
        assert ours == pytest.approx(slope, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_float32_networks_give_float32_losses(name):
    net = oracles.random_network(2, seed=14, dtype=torch.float32)
    x, z = oracles.randn(9, 2, seed=15, dtype=torch.float32), oracles.randn(9, 2, seed=16, dtype=torch.float32)
    loss = evaluate(name, net, x, z)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(evaluate(name, net.double(), x.double(), z.double()).item(), rel=1e-4)


@pytest.mark.parametrize("name", REGULARIZED)
def test_strengths_and_metrics_of_another_dtype_do_not_change_that_of_the_loss(name):
    net = oracles.random_network(2, seed=14, members=2, dtype=torch.float32)
    x, z = oracles.randn(2, 9, 2, seed=15, dtype=torch.float32), oracles.randn(2, 9, 2, seed=16, dtype=torch.float32)
    metric = torch.diag(torch.tensor([2.0, 0.5], dtype=torch.float64))
    for strength in (torch.tensor([0.3, 0.4], dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64), 0.3):
        loss = LOSSES[name](net, x, z, strength, metric=metric)
        assert (loss.dtype, loss.shape) == (torch.float32, (2,))
        torch.testing.assert_close(
            loss, LOSSES[name](net, x, z, torch.as_tensor(strength).float(), metric=metric.float())
        )


@pytest.mark.parametrize("name", LOSSES)
def test_double_precision_data_of_a_single_precision_network_are_not_rounded(name):
    net = oracles.random_network(2, seed=14, dtype=torch.float32)
    x, z = oracles.randn(9, 2, seed=15), oracles.randn(9, 2, seed=16)
    loss = evaluate(name, net, x, z)
    assert loss.dtype == torch.float64
    loss.backward()
    assert {p.grad.dtype for p in net.parameters()} == {torch.float32}
    # The constraint is computed in single precision in both cases; the rest is exact.
    blocks = [block.detached(torch.float64) for block in net.residual_blocks()]
    value = x[None]
    for block in blocks:
        value = block.value(value)
    torch.testing.assert_close(net(x), value[0], rtol=1e-13, atol=1e-13)


# The theorems, by quadrature

STRENGTH = 0.5
PROBLEM = LinearProblem([[1.0, 0.2], [0.0, 0.7]], noise_std=0.5)
PRIOR = GaussianMixture(
    [0.4, 0.6], [[-0.8, 0.3], [0.7, -0.2]], np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.25, -0.05], [-0.05, 0.4]]])
)


@pytest.fixture(scope="module")
def quadrature() -> tuple[Tensor, Tensor]:
    """Points (P, 2) and weights (P,) of E over the prior: trapezoidal rule, exponentially accurate."""
    points = torch.from_numpy(oracles.grid(2, 6.5, 261))
    weights = PRIOR.log_prob(points).exp() * (13.0 / 260) ** 2
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    return points, weights


def optimal_map(x: Tensor) -> Tensor:
    """phi*(x) = H x - strength^2 s(x)."""
    return x @ PROBLEM.normal_operator - STRENGTH**2 * PRIOR.score(x)


def optimal_value(points: Tensor, weights: Tensor) -> float:
    """Theorem 2(a): the constant of L_div."""
    trace = float(PROBLEM.normal_operator.trace())
    fisher = float(weights @ PRIOR.score(points).square().sum(-1))
    return 0.5 * PROBLEM.noise_std**2 * trace - STRENGTH**2 * trace - 0.5 * STRENGTH**4 * fisher


class OptimalMap(IResNet):
    """A network whose values and Jacobians are replaced by the exact ones of phi*."""

    def forward_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return optimal_map(x), PROBLEM.normal_operator - STRENGTH**2 * PRIOR.hessian(x)


def test_expected_divergence_is_minus_the_correlation_with_the_score(quadrature):
    """Integration by parts, E div phi = -E <phi, s>, for a random network: both sides by quadrature."""
    points, weights = quadrature
    net = oracles.random_network(2, seed=17, gain=2.0)
    with torch.no_grad():
        value, divergence = net.forward_and_divergence(points)
    left = float(weights @ divergence)
    right = -float(weights @ (value * PRIOR.score(points)).sum(-1))
    assert left == pytest.approx(right, rel=1e-7)
    wrong = -float(weights @ (value * PRIOR.score(points + 0.1)).sum(-1))  # negative control: another score
    assert abs(left - wrong) > 1e-3


def test_divergence_loss_of_the_optimal_map_is_the_closed_form_optimum(quadrature):
    points, weights = quadrature
    x = points.unsqueeze(1)  # every batch is one point
    per_point = invlib.divergence_loss(OptimalMap(2, dtype=torch.float64), x, x @ PROBLEM.normal_operator, STRENGTH)
    assert per_point.shape == (len(points),)
    noise = 0.5 * PROBLEM.noise_std**2 * float(PROBLEM.normal_operator.trace())
    assert float(weights @ per_point) + noise == pytest.approx(optimal_value(points, weights), rel=1e-9)


def test_excess_divergence_loss_of_a_network_is_half_its_mean_square_distance_to_the_optimal_map(quadrature):
    """Theorem 2(a) for a random network; the loss is evaluated point by point as members of an ensemble."""
    points, weights = quadrature
    keep = weights > 1e-14
    points, weights = points[keep], weights[keep]
    net = oracles.random_network(2, seed=18, gain=2.0)
    with torch.no_grad():
        value, divergence = net.forward_and_divergence(points)
        z = points @ PROBLEM.normal_operator
        loss = float(weights @ (0.5 * (value - z).square().sum(-1) - STRENGTH**2 * divergence))
        batch = invlib.divergence_loss(net, points, z, STRENGTH).item()
        formula = float((0.5 * (value - z).square().sum(-1) - STRENGTH**2 * divergence).mean())
    assert batch == pytest.approx(formula, rel=1e-12)
    noise = 0.5 * PROBLEM.noise_std**2 * float(PROBLEM.normal_operator.trace())
    excess = loss + noise - optimal_value(points, weights)
    assert excess == pytest.approx(0.5 * float(weights @ (value - optimal_map(points)).square().sum(-1)), rel=1e-6)
    assert excess > 0


def test_log_det_term_rewards_the_entropy_of_the_pushforward(quadrature):
    """Theorem 1(a): -E log|det D phi| = int q log q - int p log p, q(phi(x)) by the change of variables.

    The density q is computed without any Jacobian: a fine grid is pushed forward, and q at phi(x) is the mass of a
    small cell over the area of its image, a polygon.
    """
    points, weights = quadrature
    keep = weights > 1e-9
    points, weights = points[keep], weights[keep]
    net = oracles.random_network(2, seed=19, gain=2.0)
    side = 1e-4
    corners = side * torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    with torch.no_grad():
        image = net((points.unsqueeze(1) + corners).reshape(-1, 2)).reshape(-1, 4, 2)
        _, log_det = net.forward_and_log_det(points)
    following = image.roll(-1, dims=1)
    area = 0.5 * (image[..., 0] * following[..., 1] - image[..., 1] * following[..., 0]).sum(-1).abs()
    log_p = PRIOR.log_prob(points)
    log_q = log_p + 2 * np.log(2 * side) - area.log()
    assert -float(weights @ log_det) == pytest.approx(float(weights @ (log_q - log_p)), rel=1e-5)


def test_the_noise_of_the_data_of_a_training_has_the_covariance_of_that_of_the_problem():
    """delta^2 H, from the squares of its root, for each unit vector of noise: no sampling."""
    problem = LinearProblem([[1.0, 0.5], [0.0, 2.0], [0.3, 0.0]], noise_std=0.7)
    net = IResNet(2, dtype=torch.float64)
    objective = Objective(net, problem, "reconstruction", None, False)
    unit = torch.eye(2, dtype=torch.float64)[None]
    _, z = objective.data(torch.zeros_like(unit), unit)
    torch.testing.assert_close(z.mT @ z, 0.49 * problem.normal_operator, rtol=1e-12, atol=1e-12)
