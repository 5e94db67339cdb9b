"""Tests of `invlib.error_bars`: the covariance of exactly known maps, and what it refuses."""

import pickle

import oracles
import pytest
import torch
from torch import Tensor, nn

import invlib
from invlib import GaussianMixture, IResNet, LinearProblem
from invlib.error_bars import CovarianceError, Reconstruction, reconstruct
from invlib.networks import InvertibleNetwork

F64 = torch.float64


class Affine(InvertibleNetwork):
    """M x + b."""

    def __init__(self, matrix: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.matrix, self.shift = nn.Parameter(matrix), nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.mT + self.shift

    def inverse(self, z: Tensor) -> Tensor:
        return torch.linalg.solve(self.matrix, (z - self.shift).mT).mT


def wiener(problem: LinearProblem, prior: GaussianMixture) -> Affine:
    """For a Gaussian prior: phi*(x) = Hx - delta^2 s(x), the inverse of the posterior mean and of the MAP."""
    precision = torch.linalg.inv(prior.covariances[0])
    matrix = problem.normal_operator + problem.noise_std**2 * precision
    return Affine(matrix, -(problem.noise_std**2) * precision @ prior.means[0])


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_for_a_gaussian_prior_the_error_bars_are_the_posterior(dim):
    prior = oracles.random_mixture(dim, 1, seed=dim)
    problem = LinearProblem(oracles.random_operator(dim + 1, dim, seed=2), 0.3)
    z = oracles.randn(7, dim, seed=3)
    result = reconstruct(wiener(problem, prior), problem, z)
    torch.testing.assert_close(result.x, invlib.posterior_mean(problem, prior, z), rtol=1e-10, atol=1e-11)
    expected = invlib.posterior_covariance(problem, prior, z)
    torch.testing.assert_close(result.covariance, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.std, expected.diagonal(dim1=-2, dim2=-1).sqrt(), rtol=1e-10, atol=0)
    assert torch.equal(result.covariance, result.covariance.mT)
    assert not result.covariance.requires_grad


class Minimizer(InvertibleNetwork):
    """phi*(x) = Hx - delta^2 s(x) of a mixture; its inverse is asked from the exact MAP estimate."""

    def __init__(self, problem: LinearProblem, prior: GaussianMixture) -> None:
        super().__init__()
        self.problem, self.prior = problem, prior

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.problem.normal_operator - self.problem.noise_std**2 * self.prior.score(x)

    def inverse(self, z: Tensor) -> Tensor:
        return invlib.map_estimate(self.problem, self.prior, z)


def test_for_the_minimizer_of_the_divergence_loss_they_are_the_laplace_covariance_at_the_map():
    prior = GaussianMixture([0.5, 0.5], [[-0.5, 0.0], [0.5, 0.2]], torch.eye(2).expand(2, 2, 2))
    problem = LinearProblem(oracles.random_operator(2, 2, seed=4), 0.4)
    z = oracles.randn(6, 2, seed=5)
    result = reconstruct(Minimizer(problem, prior), problem, z)
    x = invlib.map_estimate(problem, prior, z)
    precision = problem.normal_operator / problem.noise_std**2 - prior.hessian(x)
    torch.testing.assert_close(result.covariance, torch.linalg.inv(precision), rtol=1e-9, atol=1e-11)
    largest = torch.linalg.eigvalsh(result.covariance)[..., -1]
    curvature = invlib.map_curvature(problem, prior, x)  # least eigenvalue of H - delta^2 hess log p
    torch.testing.assert_close(largest, problem.noise_std**2 / curvature, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
def test_leading_axes_and_the_dtype_are_those_of_the_data(shape, dtype):
    net = IResNet(3, generator=oracles.generator(0))
    problem = LinearProblem(torch.eye(3), 0.2)
    z = 0.3 * oracles.randn(*shape, 3, seed=6, dtype=dtype)
    result = reconstruct(net, problem, z)
    assert (result.x.shape, result.covariance.shape, result.std.shape) == (z.shape, (*z.shape, 3), z.shape)
    assert {result.x.dtype, result.covariance.dtype, result.std.dtype} == {dtype}
    torch.testing.assert_close(result.x, net.inverse(z).detach(), rtol=1e-4, atol=1e-5)
    jacobian = net.forward_and_jacobian(result.x)[1].detach().double()
    inverse = 0.04 * torch.linalg.inv(jacobian)
    torch.testing.assert_close(result.covariance.double(), 0.5 * (inverse + inverse.mT), rtol=1e-4, atol=1e-6)


def test_members_are_reconstructed_side_by_side():
    net = IResNet(2, members=3, dtype=F64, generator=oracles.generator(1))
    with torch.no_grad():
        net.weights[2].mul_(0.1)  # close to the identity
    problem, z = LinearProblem(torch.eye(2), 0.2), oracles.randn(3, 4, 2, seed=7)
    result = reconstruct(net, problem, z)
    for e in range(3):
        alone = reconstruct(oracles.member(net, e), problem, z[e])
        torch.testing.assert_close(result.covariance[e], alone.covariance, rtol=1e-8, atol=1e-10)


class Shear(InvertibleNetwork):
    """(x, y) -> (x + 4 tanh y, y): its symmetrized inverse Jacobian is indefinite where |4 tanh' y| > 2."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., 0] + 4 * torch.tanh(x[..., 1]), x[..., 1]], dim=-1)

    def inverse(self, z: Tensor) -> Tensor:
        return torch.stack([z[..., 0] - 4 * torch.tanh(z[..., 1]), z[..., 1]], dim=-1)


def test_a_covariance_that_is_not_positive_definite_is_an_error_that_names_the_points():
    """At y = 0 the matrix is [[1, -2], [-2, 1]] delta^2, with the eigenvalue -delta^2; at y = 3 it is the identity."""
    problem = LinearProblem(torch.eye(2), 0.5)
    z = torch.tensor([[0.0, 3.0], [1.0, 0.0], [2.0, 3.0], [3.0, 0.1]], dtype=F64)
    message = r"^the covariance is not positive definite at 2 of 4 points: \(1,\), \(3,\)$"
    with pytest.raises(CovarianceError, match=message) as error:
        reconstruct(Shear(), problem, z)
    result = error.value.reconstruction
    expected = 0.25 * torch.tensor([[1.0, -2.0], [-2.0, 1.0]], dtype=F64)
    torch.testing.assert_close(result.covariance[1], expected, rtol=1e-12, atol=0)
    good = reconstruct(Shear(), problem, z[[0, 2]])
    torch.testing.assert_close(good.covariance, result.covariance[[0, 2]], rtol=1e-12, atol=0)
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value)
    assert torch.equal(again.reconstruction.covariance, result.covariance)


def test_many_bad_points_are_counted_and_the_first_ones_named():
    z = torch.zeros(2, 5, 2, dtype=F64)
    with pytest.raises(CovarianceError, match=r"at 10 of 10 points: \(0, 0\), \(0, 1\), \(0, 2\), \.\.\.$"):
        reconstruct(Shear(), LinearProblem(torch.eye(2), 0.5), z)


def test_a_singular_jacobian_is_no_covariance():
    class Cube(InvertibleNetwork):
        def forward(self, x: Tensor) -> Tensor:
            return x**3

        def inverse(self, z: Tensor) -> Tensor:
            return z.sign() * z.abs() ** (1 / 3)

    with pytest.raises(CovarianceError, match=r"at 1 of 2 points: \(0,\)"):
        reconstruct(Cube(), LinearProblem([[1.0]], 0.5), torch.tensor([[0.0], [1.0]], dtype=F64))


PROBLEM = LinearProblem(torch.eye(2), 0.5)
NET = IResNet(2)
Z = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"^z must have shape \(\.\.\., 2\)", (NET, PROBLEM, Z[:, :1])),
        (r"^z must be finite", (NET, PROBLEM, Z * float("nan"))),
        (r"^z must have a floating-point dtype", (NET, PROBLEM, Z.half())),
        (r"^z must be a torch tensor", (NET, PROBLEM, Z.tolist())),
        (r"^problem must be a LinearProblem, got float", (NET, 0.5, Z)),
        (r"^net must have a method inverse\(z\), got Linear", (nn.Linear(2, 2), PROBLEM, Z)),
        (r"^net must have a method inverse\(z\), got NoneType", (None, PROBLEM, Z)),
        (r"^net\.inverse\(z\) must have shape \(4, 2\)", (Affine(torch.eye(2), torch.zeros(2)), PROBLEM, Z)),
    ],
)
def test_bad_input_is_named(message, arguments, monkeypatch):
    monkeypatch.setattr(Affine, "inverse", lambda self, z: z[:1])
    with pytest.raises((ValueError, TypeError), match=message):
        reconstruct(*arguments)


def test_a_reconstruction_knows_its_standard_deviations():
    covariance = torch.tensor([[4.0, 1.0], [1.0, 9.0]])
    assert Reconstruction(torch.zeros(2), covariance).std.tolist() == [2.0, 3.0]
