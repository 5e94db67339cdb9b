"""Tests of `invlib.krylov`: GMRES for many systems at once, against dense solutions, and its gradient."""

import numpy as np
import oracles
import pytest
import torch
from scipy.sparse import linalg as sparse
from torch import Tensor

from invlib import krylov
from invlib.errors import DifferentiatedTwiceError

F32, F64 = torch.float32, torch.float64


def systems(count: int, dim: int, seed: int, contraction: float = 0.9) -> Tensor:
    """I + J with |J| = contraction, not symmetric, (count, dim, dim)."""
    inner = oracles.randn(count, dim, dim, seed=seed)
    return torch.eye(dim, dtype=F64) + contraction * inner / torch.linalg.matrix_norm(inner, 2)[:, None, None]


def applying(matrices: Tensor) -> krylov.LinearMap:
    return lambda v: torch.einsum("...ij,...j->...i", matrices, v)


@pytest.mark.parametrize("tol", [1e-2, 1e-6, 1e-12])
@pytest.mark.parametrize("dim", [1, 2, 5, 40])
def test_every_relative_residual_meets_the_tolerance(dim, tol):
    matrices, right = systems(30, dim, seed=1), oracles.randn(30, dim, seed=2)
    right = right * 10.0 ** torch.linspace(-6, 6, 30, dtype=F64).unsqueeze(-1)
    solution = krylov.gmres(applying(matrices), right, tol=tol)
    residual = (applying(matrices)(solution) - right).norm(dim=-1) / right.norm(dim=-1)
    assert float(residual.max()) <= tol * (1 + 1e-9)


def test_the_solution_is_the_dense_one_and_that_of_scipy():
    matrices, right = systems(5, 12, seed=3), oracles.randn(5, 12, seed=4)
    solution = krylov.gmres(applying(matrices), right, tol=1e-13)
    torch.testing.assert_close(solution, torch.linalg.solve(matrices, right), rtol=1e-11, atol=1e-12)
    for matrix, vector, ours in zip(matrices.numpy(), right.numpy(), solution.numpy(), strict=True):
        theirs, info = sparse.gmres(matrix, vector, rtol=1e-13, restart=12)
        assert info == 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_the_iterates_are_those_of_scipy():
    """After k steps from zero the residual is the least in the Krylov space: one number, whatever the algorithm."""
    matrices, right = systems(4, 20, seed=5), oracles.randn(4, 20, seed=6)
    for steps in (1, 3, 7):
        found = krylov.gmres(applying(matrices), right, tol=1e-15, restart=steps, cycles=1)
        ours = (applying(matrices)(found) - right).norm(dim=-1).numpy()
        for index, (matrix, vector) in enumerate(zip(matrices.numpy(), right.numpy(), strict=True)):
            theirs, _ = sparse.gmres(matrix, vector, rtol=1e-15, restart=steps, maxiter=1)
            np.testing.assert_allclose(ours[index], np.linalg.norm(matrix @ theirs - vector), rtol=1e-8)


def test_restarts_go_on_where_the_space_is_too_small():
    matrices, right = systems(6, 30, seed=7), oracles.randn(6, 30, seed=8)
    solution = krylov.gmres(applying(matrices), right, tol=1e-10, restart=4, cycles=200)
    torch.testing.assert_close(solution, torch.linalg.solve(matrices, right), rtol=1e-7, atol=1e-8)


def test_the_cycles_are_limited_and_what_was_found_is_better_than_nothing():
    matrices, right = systems(6, 30, seed=9, contraction=0.99), oracles.randn(6, 30, seed=10)
    calls = []

    def apply(v: Tensor) -> Tensor:
        calls.append(v.shape)
        return applying(matrices)(v)

    solution = krylov.gmres(apply, right, tol=1e-14, restart=3, cycles=2)
    assert len(calls) == 2 * (3 + 1)
    residual = (applying(matrices)(solution) - right).norm(dim=-1) / right.norm(dim=-1)
    assert float(residual.max()) < 1
    assert float(residual.min()) > 1e-14


def test_points_do_not_see_each_other():
    """An easy system beside a hard one is solved as if it were alone; its exhausted space does no harm."""
    matrices, right = systems(3, 8, seed=11), oracles.randn(3, 8, seed=12)
    matrices[0] = 2 * torch.eye(8, dtype=F64)  # one step
    right[1] = 0  # no step
    together = krylov.gmres(applying(matrices), right, tol=1e-12)
    torch.testing.assert_close(together[0], right[0] / 2, rtol=1e-14, atol=0)
    assert not together[1].any()
    alone = krylov.gmres(applying(matrices[2:]), right[2:], tol=1e-12)
    torch.testing.assert_close(together[2:], alone, rtol=1e-10, atol=1e-11)


def test_eigenvectors_and_coordinate_directions_take_one_or_two_steps_without_division_by_zero():
    matrices = torch.diag_embed(torch.tensor([[1.0, 2.0, 3.0]], dtype=F64)).expand(4, 3, 3)
    right = torch.tensor([[1.0, 0, 0], [0, 5, 0], [1, 1, 0], [0, 0, 0]], dtype=F64)
    solution = krylov.gmres(applying(matrices), right, tol=1e-14)
    torch.testing.assert_close(solution, torch.linalg.solve(matrices, right), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 7), (0, 7), (2, 0, 7)])
def test_leading_axes_are_kept(shape):
    (matrix,) = systems(1, 7, seed=13)
    right = oracles.randn(*shape, seed=14)
    solution = krylov.gmres(applying(matrix), right, tol=1e-12)
    assert solution.shape == shape
    torch.testing.assert_close(solution @ matrix.T, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "scale"), [(F32, 1e-30), (F32, 1e30), (F64, 1e-250), (F64, 1e250)])
def test_the_scale_of_the_data_does_not_matter_even_where_squares_leave_the_range(dtype, scale):
    matrices, right = systems(5, 6, seed=15).to(dtype), oracles.randn(5, 6, seed=16, dtype=dtype)
    tol = 1e-5 if dtype == F32 else 1e-12
    solution = krylov.gmres(applying(matrices), right * scale, tol=tol)
    expected = torch.linalg.solve(matrices, right)
    torch.testing.assert_close(solution / scale, expected, rtol=100 * tol, atol=100 * tol)


def test_single_precision_stops_at_its_rounding():
    matrices, right = systems(20, 10, seed=17).float(), oracles.randn(20, 10, seed=18, dtype=F32)
    solution = krylov.gmres(applying(matrices), right, tol=1e-12)  # out of reach
    residual = (applying(matrices)(solution) - right).norm(dim=-1) / right.norm(dim=-1)
    assert float(residual.max()) < 1e-6


@pytest.mark.parametrize("dim", [2, 9])
def test_the_gradient_solves_the_adjoint_system(dim):
    matrices, right, factors = systems(5, dim, seed=19), oracles.randn(5, dim, seed=20), oracles.randn(5, dim, seed=21)
    right.requires_grad_()
    solution = krylov.solve(applying(matrices), right, tol=1e-13)
    torch.testing.assert_close(solution, torch.linalg.solve(matrices, right), rtol=1e-11, atol=1e-12)
    (gradient,) = torch.autograd.grad((factors * solution).sum(), right)
    torch.testing.assert_close(gradient, torch.linalg.solve(matrices.mT, factors), rtol=1e-10, atol=1e-11)
    assert torch.autograd.gradcheck(lambda r: krylov.solve(applying(matrices), r, tol=1e-14), (right,))


def test_second_derivatives_raise():
    matrices, right = systems(5, 3, seed=22), oracles.randn(5, 3, seed=23).requires_grad_()
    solution = krylov.solve(applying(matrices), right, tol=1e-12)
    with pytest.raises(DifferentiatedTwiceError, match=r"^the inverse has first derivatives only"):
        torch.autograd.grad(solution.square().sum(), right, create_graph=True)


def test_nothing_is_recorded_where_no_gradient_is_needed():
    matrices = systems(5, 3, seed=24).requires_grad_()
    assert not krylov.solve(applying(matrices), oracles.randn(5, 3, seed=25), tol=1e-8).requires_grad


def test_the_adjoint_of_a_map_is_its_transpose():
    matrices, v = systems(5, 4, seed=26), oracles.randn(5, 4, seed=27)
    with torch.no_grad():
        adjoint = krylov.transposed(applying(matrices), v)
    for _ in range(2):  # it may be asked again
        torch.testing.assert_close(adjoint(v), applying(matrices.mT)(v), rtol=1e-13, atol=1e-14)
