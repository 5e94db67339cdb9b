"""Tests of `invlib.problems`: the operator, its adjoint and the noise."""

import numpy as np
import oracles
import pytest
import torch

from invlib import LinearProblem
from invlib.testproblems import epsilon_problem

SHAPES = [(1, 1), (2, 2), (2, 3), (3, 2), (5, 5), (1, 4), (6, 2)]


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_normal_operator_is_the_gram_matrix(m, n):
    a = oracles.random_operator(m, n, seed=m + 10 * n)
    problem = LinearProblem(a, 0.1)
    np.testing.assert_allclose(problem.normal_operator.numpy(), a.numpy().T @ a.numpy(), atol=1e-14)
    assert problem.dim == n


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_normal_data_is_the_adjoint_of_forward(m, n):
    problem = LinearProblem(oracles.random_operator(m, n, seed=m + 10 * n), 0.1)
    x, y = oracles.randn(9, n, seed=1), oracles.randn(9, m, seed=2)
    torch.testing.assert_close((problem.forward(x) * y).sum(-1), (x * problem.normal_data(y)).sum(-1))
    np.testing.assert_allclose(problem.forward(x).numpy(), x.numpy() @ problem.operator.numpy().T, atol=1e-14)


@pytest.mark.parametrize(("m", "n", "rank"), [(2, 2, 1), (3, 3, 2), (5, 3, 3), (3, 5, 3), (4, 4, 0), (6, 4, 2)])
def test_rank_and_injectivity_agree_with_numpy(m, n, rank):
    problem = LinearProblem(oracles.random_operator(m, n, seed=m + n, rank=rank), 0.1)
    assert problem.rank == np.linalg.matrix_rank(problem.operator.numpy()) == rank
    assert problem.is_injective == (rank == n)


def test_singular_values_are_those_of_numpy():
    problem = LinearProblem(oracles.random_operator(4, 3, seed=3), 0.1)
    expected = np.linalg.svd(problem.operator.numpy(), compute_uv=False)
    np.testing.assert_allclose(problem.singular_values.numpy(), expected, rtol=1e-13)


def test_measurement_noise_has_mean_zero_and_covariance_delta_squared_identity():
    """Five standard errors of 50,000 draws; seed fixed."""
    count, noise_std = 50_000, 0.3
    problem = LinearProblem(oracles.random_operator(3, 2, seed=4), noise_std)
    x = oracles.randn(count, 2, seed=5)
    noise = (problem.measure(x, generator=oracles.generator(6)) - x @ problem.operator.T) / noise_std
    assert float(noise.mean(0).abs().max()) < 5 / count**0.5
    covariance = noise.T @ noise / count
    assert float((covariance - torch.eye(3, dtype=torch.float64)).abs().max()) < 5 * (2 / count) ** 0.5


def test_normal_data_noise_has_covariance_delta_squared_h():
    count, noise_std = 50_000, 0.5
    problem = LinearProblem(oracles.random_operator(4, 2, seed=7), noise_std)
    zero = torch.zeros(count, 2, dtype=torch.float64)
    z = problem.normal_data(problem.measure(zero, generator=oracles.generator(8)))
    error = z.T @ z / count - noise_std**2 * problem.normal_operator
    assert float(error.abs().max()) < 5 * (2 / count) ** 0.5 * noise_std**2 * float(problem.normal_operator.max())


def test_measuring_is_determined_by_the_generator_alone():
    problem = LinearProblem([[1.0, 2.0]], 0.1)
    x = oracles.randn(5, 2, seed=9)
    state = torch.get_rng_state()
    first = problem.measure(x, generator=oracles.generator(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, problem.measure(x, generator=oracles.generator(1)))
    assert not torch.equal(first, problem.measure(x, generator=oracles.generator(2)))


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leading_dimensions_and_dtype_are_kept(shape, dtype):
    problem = LinearProblem(oracles.random_operator(3, 2, seed=10), 0.1)
    y = problem.measure(torch.ones(*shape, 2, dtype=dtype), generator=oracles.generator(1))
    z = problem.normal_data(y)
    assert (y.shape, z.shape) == ((*shape, 3), (*shape, 2))
    assert y.dtype == z.dtype == dtype


def test_the_problem_keeps_its_own_copy_of_the_operator():
    """A sweep that changes one array in place must not change the problems made before."""
    array, tensor = np.eye(2), torch.eye(2, dtype=torch.float64)
    from_array, from_tensor = LinearProblem(array, 0.1), LinearProblem(tensor, 0.1)
    array[0, 0] = tensor[0, 0] = 5.0
    assert torch.equal(from_array.operator, torch.eye(2, dtype=torch.float64))
    assert torch.equal(from_tensor.operator, torch.eye(2, dtype=torch.float64))


def test_repr_shows_sizes_noise_and_singular_values():
    assert repr(LinearProblem([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]], 0.25)) == (
        "LinearProblem(A: R^2 -> R^3, noise_std=0.25, singular values 2 ... 1)"
    )


def test_epsilon_problem_has_its_singular_values_and_directions():
    a = epsilon_problem(0.125, 0.1, angle=40.0).operator.numpy()
    angle = np.deg2rad(40.0)
    weak, strong = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    np.testing.assert_allclose(a, a.T, atol=1e-16)
    np.testing.assert_allclose(a @ weak, 0.125 * weak, atol=1e-15)
    np.testing.assert_allclose(a @ strong, strong, atol=1e-15)
