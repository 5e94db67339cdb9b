"""Tests of what makes networks large: low-rank blocks, a fixed linear last layer, and stochastic estimates."""

import copy
import itertools
import math

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import invlib
from invlib import IResNet
from invlib.dense import DenseBlock

F64 = torch.float64
LOW_RANK = [(2, 1), (5, 2), (7, 3), (9, 8)]


def plain(net: IResNet, x: Tensor) -> Tensor:
    """The values of the blocks of a single network at points (B, n)."""
    parameters = [parameter.detach() for parameter in net.parameters()]
    return torch.stack([oracles.plain_network(parameters, point, net.lipschitz) for point in x])


def operators(dim: int, members: int | None = None) -> Tensor:
    """Invertible, not symmetric, singular values in 0.5 ... 1.5."""
    if members is None:
        return oracles.random_operator(dim, dim, seed=dim)
    return torch.stack([oracles.random_operator(dim, dim, seed=10 * e + dim) for e in range(members)])


def positive_definite(dim: int, seed: int) -> Tensor:
    factor = oracles.random_operator(dim, dim, seed=seed)
    return factor @ factor.T


def assert_slopes(loss: object, leaves: list[Tensor], rel: float = 1e-6) -> None:
    """The gradients of a scalar are its central differences along random directions."""
    gradients = torch.autograd.grad(loss(), leaves)
    for index, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        direction = oracles.randn(*leaf.shape, seed=50 + index)
        slope = float(oracles.directional_difference(loss, leaf, direction, 1e-6))
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=rel, abs=1e-7)


# Low-rank blocks


@pytest.mark.parametrize("gain", [1.0, 5.0])
@pytest.mark.parametrize(("dim", "width"), LOW_RANK)
def test_log_det_of_low_rank_blocks_is_that_of_the_exact_jacobian(dim, width, gain):
    net = oracles.random_network(dim, seed=1, width=width, lipschitz=0.97, gain=gain)
    assert all(block.is_low_rank for block in net.residual_blocks())
    x = 2 * oracles.randn(3, 4, dim, seed=2)
    value, log_det = net.forward_and_log_det(x)
    expected = np.linalg.slogdet(oracles.plain_jacobians(net, x.reshape(-1, dim)).numpy()).logabsdet
    np.testing.assert_allclose(log_det.detach().numpy().ravel(), expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(value.detach().reshape(-1, dim), plain(net, x.reshape(-1, dim)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("dim", "width"), [*LOW_RANK, (4, 4), (2, 5)])
def test_solve_and_tangent_of_a_block_are_those_of_its_jacobian(dim, width):
    """Woodbury where the dimension exceeds the width, a dense solve otherwise, against numpy."""
    net = oracles.random_network(dim, seed=3, width=width, lipschitz=0.97, gain=5.0, members=2)
    x, r = oracles.randn(2, 6, dim, seed=4), oracles.randn(2, 6, dim, seed=5)
    for block in net.residual_blocks():
        value, jacobian = block.value_and_jacobian(x)
        again, at = block.linearize(x)
        torch.testing.assert_close(again, value, rtol=1e-12, atol=1e-13)
        expected = np.linalg.solve(jacobian.detach().numpy(), r.numpy()[..., None])[..., 0]
        # The conditioning of a block is at most 1.97 / 0.03.
        np.testing.assert_allclose(block.solver(at, tol=1e-12)(r).detach().numpy(), expected, rtol=1e-10, atol=1e-11)
        tangent = torch.einsum("ebij,ebj->ebi", jacobian, r)
        torch.testing.assert_close(block.tangent(at, r), tangent, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(block.branch_tangent(at, r), tangent - r, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("members", [None, 2])
def test_gradient_of_the_log_det_of_low_rank_blocks_equals_finite_differences(members):
    net = oracles.random_network(5, seed=6, width=3, gain=3.0, members=members)
    shape = (4, 5) if members is None else (members, 4, 5)
    x = oracles.randn(*shape, seed=7).requires_grad_()
    factors = oracles.randn(*shape[:-1], seed=8)
    assert_slopes(lambda: (factors * net.forward_and_log_det(x)[1]).sum(), [x, *net.parameters()])


def test_members_of_low_rank_blocks_are_their_single_networks():
    net = oracles.random_network(5, seed=9, width=3, gain=3.0, members=3)
    x = oracles.randn(3, 6, 5, seed=10)
    value, log_det = net.forward_and_log_det(x)
    solution = net.solve_inverse(value.detach())
    for e in range(3):
        single = oracles.member(net, e)
        expected = single.forward_and_log_det(x[e])
        torch.testing.assert_close(value[e], expected[0], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(log_det[e], expected[1], rtol=1e-11, atol=1e-12)
        again = single.solve_inverse(value[e].detach())
        torch.testing.assert_close(solution.x[e], again.x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("lipschitz", [0.9, 0.99])
@pytest.mark.parametrize(("dim", "width"), LOW_RANK)
def test_inverse_of_low_rank_blocks_residual_and_error_bound_are_true(dim, width, lipschitz):
    net = oracles.random_network(dim, seed=11, width=width, lipschitz=lipschitz, gain=5.0)
    x = 2 * oracles.randn(30, dim, seed=12)
    z = plain(net, x)
    for tol in (1e-3, 1e-10):
        solution = net.solve_inverse(z, tol=tol)
        assert bool(solution.converged.all())
        residual = (plain(net, solution.x) - z).norm(dim=-1)
        torch.testing.assert_close(solution.residual, residual, rtol=1e-6, atol=1e-13)
        assert bool((residual <= tol * z.norm(dim=-1).clamp_min(1)).all())
        rounding = 1e-14 * z.norm(dim=-1).clamp_min(1) / net.lipschitz_bounds()[0]  # of z itself
        assert bool(((solution.x - x).norm(dim=-1) <= solution.error_bound + rounding).all())


@pytest.mark.parametrize("members", [None, 2])
def test_gradients_of_the_inverse_of_low_rank_blocks_equal_finite_differences(members):
    net = oracles.random_network(5, seed=13, width=3, gain=3.0, members=members)
    shape = (6, 5) if members is None else (members, 6, 5)
    z, factors = oracles.randn(*shape, seed=14).requires_grad_(), oracles.randn(*shape, seed=15)
    assert_slopes(lambda: (factors * net.inverse(z, tol=1e-13)).square().sum(), [z, *net.parameters()])


def test_gradient_of_the_inverse_of_low_rank_blocks_in_z_is_the_inverse_jacobian():
    net = oracles.random_network(6, seed=16, width=2, gain=5.0)
    x, factors = oracles.randn(10, 6, seed=17), oracles.randn(10, 6, seed=18)
    z = plain(net, x).requires_grad_()
    (gradient,) = torch.autograd.grad((factors * net.inverse(z)).sum(), z)
    expected = torch.linalg.solve(oracles.plain_jacobians(net, x).mT, factors)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-8)


class Storage(TorchDispatchMode):
    """Records the largest number of bytes behind any tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function: object, types: object, args: tuple = (), kwargs: dict | None = None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


def refuse(*args: object) -> None:
    raise AssertionError("the Jacobian was formed")


@pytest.fixture(scope="module")
def image_network() -> IResNet:
    return oracles.random_network(784, seed=19, blocks=2, width=64, lipschitz=0.95, gain=3.0)


def test_no_jacobian_is_formed_for_images_and_their_inverse_is_certified(image_network, monkeypatch):
    """n = 784, width 64: log-det, inverse and both backward passes stay below the size of one n x n matrix."""
    net, n = image_network, 784
    monkeypatch.setattr(DenseBlock, "value_and_jacobian", refuse)
    x = oracles.randn(20, n, seed=20)
    with Storage() as storage:
        z, log_det = net.forward_and_log_det(x)
        (log_det.sum() + z.square().sum()).backward()
        solution = net.solve_inverse(z.detach())
        net.inverse(z.detach().requires_grad_()).square().sum().backward()
        _, divergence = net.estimate_divergence(x, generator=oracles.generator(0))
        _, estimate = net.estimate_log_det(x, terms=3, generator=oracles.generator(0))
        (divergence + estimate.surrogate).sum().backward()
    assert storage.largest < 8 * n * n
    assert bool(solution.converged.all())
    again = plain(net, solution.x)
    assert float((again - z.detach()).norm(dim=-1).max()) <= 1e-6
    assert bool(((solution.x - x).norm(dim=-1) <= solution.error_bound).all())
    assert float(solution.error_bound.max()) < 1e-6
    net.zero_grad()


def test_log_det_of_images_is_that_of_the_exact_jacobian(image_network):
    x = oracles.randn(1, 784, seed=21)
    expected = np.linalg.slogdet(oracles.plain_jacobians(image_network, x)[0].numpy()).logabsdet
    assert image_network.forward_and_log_det(x)[1].item() == pytest.approx(expected, rel=1e-9)


def test_a_fixed_last_layer_needs_no_matrix_for_every_point(image_network, monkeypatch):
    n = 784
    net = oracles.with_output(image_network, torch.diag(torch.linspace(0.5, 1.5, n, dtype=F64)))
    monkeypatch.setattr(DenseBlock, "value_and_jacobian", refuse)
    x = oracles.randn(20, n, seed=22)
    with Storage() as storage:
        z, log_det = net.forward_and_log_det(x)
        log_det.sum().backward()
        solution = net.solve_inverse(z.detach())
        net.inverse(z.detach().requires_grad_()).sum().backward()
    assert storage.largest <= 2 * 8 * n * n  # M itself and its factorization
    assert bool(((solution.x - x).norm(dim=-1) <= solution.error_bound).all())


# A fixed linear last layer


@pytest.mark.parametrize(("dim", "width"), [(1, 4), (2, 8), (3, 8), (5, 2)])
def test_a_network_with_output_operator_is_the_composition(dim, width):
    psi = oracles.random_network(dim, seed=23, width=width, gain=3.0)
    matrix = operators(dim)
    net = oracles.with_output(psi, matrix)
    x = oracles.randn(7, dim, seed=24)
    expected, jacobians = plain(psi, x) @ matrix.T, matrix @ oracles.plain_jacobians(psi, x)
    torch.testing.assert_close(net(x).detach(), expected, rtol=1e-12, atol=1e-13)
    value, jacobian = net.forward_and_jacobian(x)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(jacobian.detach(), jacobians, rtol=1e-11, atol=1e-12)
    value, log_det = net.forward_and_log_det(x)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(log_det.detach(), torch.linalg.slogdet(jacobians).logabsdet, rtol=1e-10, atol=1e-11)
    divergence = net.forward_and_divergence(x)[1].detach()
    torch.testing.assert_close(divergence, jacobians.diagonal(dim1=-2, dim2=-1).sum(-1), rtol=1e-11, atol=1e-12)
    solution = net.solve_inverse(expected)
    assert bool(solution.converged.all())
    assert bool(((solution.x - x).norm(dim=-1) <= solution.error_bound).all())
    assert float((solution.x - x).norm(dim=-1).max()) < 1e-8
    assert solution.x.shape == net.inverse(expected, guess=x).shape == x.shape


@pytest.mark.parametrize("shared", [True, False])
def test_output_operators_of_members_are_their_own(shared):
    psi = oracles.random_network(3, seed=25, members=2)
    matrices = operators(3) if shared else operators(3, members=2)
    net = oracles.with_output(psi, matrices)
    x = oracles.randn(2, 5, 3, seed=26)
    value, jacobian = net.forward_and_jacobian(x)
    log_det, lower, upper = net.forward_and_log_det(x)[1], *net.lipschitz_bounds()
    for e in range(2):
        single = oracles.with_output(oracles.member(psi, e), matrices if shared else matrices[e])
        torch.testing.assert_close((value[e], jacobian[e]), single.forward_and_jacobian(x[e]), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(log_det[e], single.forward_and_log_det(x[e])[1], rtol=1e-11, atol=1e-12)
        assert (float(lower[e]), float(upper[e])) == pytest.approx(single.lipschitz_bounds(), rel=1e-12)
    torch.testing.assert_close(net.solve_inverse(value.detach()).x, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("width", [8, 2])
@pytest.mark.parametrize("members", [None, 2])
def test_gradients_with_output_operator_equal_finite_differences(members, width):
    net = oracles.with_output(oracles.random_network(3, seed=27, width=width, members=members), operators(3, members))
    shape = (4, 3) if members is None else (members, 4, 3)
    z, factors = oracles.randn(*shape, seed=28).requires_grad_(), oracles.randn(*shape, seed=29)
    leaves = [z, *net.parameters()]
    assert len(leaves) == 7  # M is no parameter
    assert_slopes(lambda: (factors * net.inverse(z, tol=1e-13)).square().sum(), leaves)
    assert_slopes(lambda: (factors[..., 0] * net.forward_and_log_det(z)[1]).sum(), leaves)


@pytest.mark.parametrize("lipschitz", [0.5, 0.97])
def test_lipschitz_bounds_include_the_output_operator(lipschitz):
    """The bounds are the products, and the inequality holds for pairs near and far."""
    psi = oracles.random_network(3, seed=30, lipschitz=lipschitz, gain=5.0)
    matrix = 3 * operators(3)
    net = oracles.with_output(psi, matrix)
    lower, upper = net.lipschitz_bounds()
    sigma = np.linalg.svd(matrix.numpy(), compute_uv=False)
    block = psi.block_bounds().detach().numpy()
    assert (lower, upper) == pytest.approx((np.prod(1 - block) * sigma[-1], np.prod(1 + block) * sigma[0]), rel=1e-12)
    np.testing.assert_allclose(net.block_bounds().numpy(), block, rtol=1e-12)
    a = 3 * oracles.randn(500, 3, seed=31)
    for distance in (1e-4, 1.0, 100.0):
        b = a + distance * oracles.randn(500, 3, seed=32)
        ratio = (net(a) - net(b)).detach().norm(dim=-1) / (a - b).norm(dim=-1)
        assert float(ratio.min()) >= lower * (1 - 1e-9)
        assert float(ratio.max()) <= upper * (1 + 1e-9)


def in_80_bits(net: IResNet, matrix: Tensor, x: Tensor) -> np.ndarray:
    """M psi(x) for a network psi of one member, (B, n), as long double."""
    weights = [weight.detach().numpy()[0].astype(np.longdouble) for weight in net.effective_weights()]
    biases = [bias.detach().numpy()[0].reshape(net.depth, -1).astype(np.longdouble) for bias in net.biases]
    value = x.numpy().astype(np.longdouble)
    for k in range(net.depth):
        hidden = oracles.activation(value @ weights[0][k].T + biases[0][k])
        hidden = oracles.activation(hidden @ weights[1][k].T + biases[1][k])
        value = value + hidden @ weights[2][k].T + biases[2][k]
    return value @ matrix.numpy().astype(np.longdouble).T


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("largest", [1.0, 1e3, 1e6])
def test_ill_conditioned_output_operators_are_inverted_and_the_error_bound_stays_true(smallest, largest, weak):
    """Exact data by 80-bit arithmetic: the distance to x is what the certificate says at most.

    If psi(x) lies in the weak direction, z is small, and so is what is left of M psi(x) - z after its rounding.
    """
    psi = oracles.random_network(2, seed=33, lipschitz=0.1 if weak else 0.9)
    u, _, v = torch.linalg.svd(operators(2))
    matrix = u @ torch.diag(torch.tensor([largest, smallest], dtype=F64)) @ v
    net = oracles.with_output(psi, matrix)
    x = oracles.randn(100, 2, seed=34)
    if weak:
        x = psi.solve_inverse(x[:, :1] * v[-1]).x
    exact = in_80_bits(psi, matrix, x)
    z = torch.from_numpy(exact.astype(np.float64))
    solution = net.solve_inverse(z)
    assert largest > 1e3 or bool(solution.converged.all())
    floor = 256 * torch.finfo(F64).eps * largest  # blocks stop at 64 rounding units of theirs
    assert bool((solution.residual <= 1e-10 * z.norm(dim=-1).clamp_min(1) + floor).all())
    shift = (exact - z.numpy()).astype(np.float64)  # rounding of z itself
    allowed = solution.error_bound.numpy() + np.linalg.norm(shift, axis=-1) / net.lipschitz_bounds()[0]
    assert bool((np.linalg.norm(solution.x.numpy() - x.numpy(), axis=-1) <= allowed).all())


@pytest.mark.parametrize("largest", [1.0, 1e6])
def test_the_error_bound_covers_the_rounding_of_the_residual(largest):
    """The residual in 80 bits is often larger than the one in 64 bits, but not by more than the bound adds."""
    psi = oracles.random_network(2, seed=69, lipschitz=0.9)
    u, _, v = torch.linalg.svd(operators(2))
    matrix = u @ torch.diag(torch.tensor([largest, 1e-3], dtype=F64)) @ v
    net, z = oracles.with_output(psi, matrix), oracles.randn(300, 2, seed=70) @ matrix.T
    z = z / z.norm(dim=-1, keepdim=True).clamp_min(1)
    solution = net.solve_inverse(z)
    exact = np.linalg.norm((in_80_bits(psi, matrix, solution.x) - z.numpy()).astype(np.float64), axis=-1)
    assert bool((exact <= solution.error_bound.numpy() * net.lipschitz_bounds()[0]).all())
    assert np.mean(exact > solution.residual.numpy()) > 0.2  # negative control: the residual alone does not


def test_the_error_bound_knows_how_little_the_output_operator_stretches():
    """z = psi(x) / 1000: a residual of 1e-6 may hide an error of 1e-3, and at this tolerance it nearly does."""
    psi = oracles.random_network(2, seed=66, lipschitz=0.1, gain=3.0)
    net, x = oracles.with_output(psi, 1e-3 * torch.eye(2)), 2 * oracles.randn(200, 2, seed=67)
    solution = net.solve_inverse(net(x).detach(), tol=1e-5, guess=x + 0.02 * oracles.randn(200, 2, seed=68))
    error = (solution.x - x).norm(dim=-1)
    assert bool((error <= solution.error_bound).all())
    assert float((solution.error_bound / error).median()) < 2
    assert float((error / solution.residual).min()) > 500


@pytest.mark.parametrize(("largest", "smallest"), [(1e6, 1.0), (1e6, 1e-3), (1e3, 1e-3), (1.0, 1e-6)])
def test_the_inverse_of_any_data_through_an_ill_conditioned_output_operator_is_as_exact_as_rounding_allows(
    largest, smallest
):
    """Evaluating M psi(x) alone costs eps |M| |x|; a linear layer needs no iteration that could end in a bad place."""
    u, _, v = torch.linalg.svd(operators(3))
    matrix = u @ torch.diag(torch.tensor([largest, 1.0, smallest], dtype=F64)) @ v
    net = oracles.with_output(oracles.random_network(3, seed=64, lipschitz=0.5), matrix)
    solution = net.solve_inverse(oracles.randn(50, 3, seed=65))
    rounding = torch.finfo(F64).eps * largest * solution.x.norm(dim=-1).clamp_min(1)
    assert bool((solution.residual <= 1e-10 + 100 * rounding).all())
    assert int(solution.iterations.max()) < 100


def test_the_output_operator_is_not_rounded_with_the_network():
    """1/3 in float32 is 1/3 (1 + 3e-8); a float32 network solves, and certifies, with the float64 original."""
    matrix = torch.tensor([[1 / 3, 0.1], [0.0, 0.7]], dtype=F64)
    psi = oracles.random_network(2, seed=35, dtype=torch.float32)
    net = oracles.with_output(psi, matrix)
    z = oracles.randn(20, 2, seed=36, dtype=torch.float32)
    assert net(z).dtype == torch.float32
    blocks = copy.deepcopy(psi).double()
    # The constraint is computed in float32 for the float32 network; its effective weights are what is solved with.
    solution = net.solve_inverse(z)
    value = solution.x[None]
    for block in psi._exact_blocks():
        value = block.value(value)
    residual = (value[0] @ matrix.T - z.double()).norm(dim=-1)
    assert float(residual.max()) <= 1e-10 * float(z.norm(dim=-1).max().clamp_min(1))
    wrong = (value[0] @ matrix.float().double().T - z.double()).norm(dim=-1)
    assert float(wrong.max()) > 1e-9  # negative control
    net.double()
    assert net(z.double()).dtype == F64
    x = net.solve_inverse(z.double()).x
    assert float((plain(blocks, x) @ matrix.T - z.double()).norm(dim=-1).max()) <= 3e-10
    net.float()
    net.double()
    torch.testing.assert_close(net(x).detach(), plain(blocks, x) @ matrix.T, rtol=1e-12, atol=1e-13)


def test_repr_shows_the_bounds_with_the_output_operator():
    net = oracles.with_output(oracles.random_network(2, seed=37), 4 * torch.eye(2))
    lower, upper = net.lipschitz_bounds()
    assert f"bounds=({lower:.3g}, {upper:.3g})" in repr(net)


def test_the_output_operator_is_a_copy():
    matrix = torch.eye(2, dtype=F64)
    net = IResNet(2, output_operator=matrix, dtype=F64, generator=oracles.generator(0))
    before = net(torch.ones(1, 2, dtype=F64))
    matrix.mul_(5)
    assert torch.equal(net(torch.ones(1, 2, dtype=F64)), before)


# Stochastic estimates


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize(("dim", "width"), [(1, 4), (3, 8), (5, 2)])
def test_the_mean_over_all_signs_of_the_divergence_estimate_is_the_trace(dim, width, metric, output):
    psi = oracles.random_network(dim, seed=38, width=width, gain=3.0)
    matrix = operators(dim) if output else torch.eye(dim, dtype=F64)
    net = oracles.with_output(psi, matrix) if output else psi
    weight = positive_definite(dim, seed=39) if metric else torch.eye(dim, dtype=F64)
    x = oracles.randn(4, dim, seed=40)
    expected = torch.einsum("ij,jk,bki->b", weight, matrix, oracles.plain_jacobians(psi, x))
    with oracles.every_sign(dim):
        value, estimate = net.estimate_divergence(oracles.for_every_sign(x), metric=weight if metric else None)
    mean = oracles.mean_over_signs(estimate, dim).detach()
    torch.testing.assert_close(mean, expected, rtol=1e-11, atol=1e-12)
    expected = (plain(psi, x) @ matrix.T).repeat_interleave(2**dim, dim=0)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shared", [True, False])
def test_the_divergence_estimate_of_members_uses_their_own_metrics(shared):
    net = oracles.with_output(oracles.random_network(3, seed=41, members=2), operators(3, members=2))
    metric = torch.stack([positive_definite(3, seed=42), positive_definite(3, seed=43)])
    metric = metric[0] if shared else metric
    x = oracles.randn(2, 4, 3, seed=43)
    expected = (metric.expand(2, 3, 3).unsqueeze(1) @ net.forward_and_jacobian(x)[1]).diagonal(dim1=-2, dim2=-1).sum(-1)
    with oracles.every_sign(3):
        estimate = net.estimate_divergence(oracles.for_every_sign(x), metric=metric)[1]
    torch.testing.assert_close(oracles.mean_over_signs(estimate, 3), expected, rtol=1e-11, atol=1e-12)


def traces_of_powers(net: IResNet, x: Tensor, terms: int) -> Tensor:
    """The truncated series of all blocks by dense powers of their exact Jacobians, and log|det M|, (B,)."""
    total, points = torch.zeros(len(x), dtype=x.dtype), x[None]
    for block in net.residual_blocks():
        points, jacobian = block.value_and_jacobian(points)
        inner = jacobian[0] - torch.eye(net.dim, dtype=x.dtype)
        powers = itertools.accumulate([inner] * terms, torch.matmul)
        traces = [power.diagonal(dim1=-2, dim2=-1).sum(-1) for power in powers]
        total = total + sum((-1) ** k * trace / (k + 1) for k, trace in enumerate(traces))
    return total if net.output_operator is None else total + torch.linalg.slogdet(net.output_operator[0]).logabsdet


@pytest.mark.parametrize("terms", [1, 2, 5, 20])
@pytest.mark.parametrize(("dim", "width", "output"), [(1, 4, False), (3, 8, False), (5, 2, False), (3, 8, True)])
def test_the_mean_over_all_signs_of_the_log_det_estimate_is_the_truncated_series(dim, width, output, terms):
    """Its value, its gradient in x and in the parameters, and the distance to the exact log-determinant."""
    psi = oracles.random_network(dim, seed=44, width=width, lipschitz=0.8, gain=3.0)
    net = oracles.with_output(psi, operators(dim)) if output else psi
    x, factors = oracles.randn(3, dim, seed=45).requires_grad_(), oracles.randn(3, seed=46)
    exact = net.forward_and_log_det(x)[1]
    series = traces_of_powers(net, x, terms)
    leaves = [x, *net.parameters()]
    expected = torch.autograd.grad((factors * series).sum(), leaves, allow_unused=True)
    with oracles.every_sign(dim):
        value, estimate = net.estimate_log_det(oracles.for_every_sign(x), terms=terms)
    torch.testing.assert_close(oracles.mean_over_signs(estimate.value, dim), series.detach(), rtol=1e-10, atol=1e-11)
    assert not estimate.value.requires_grad
    surrogate = oracles.mean_over_signs(estimate.surrogate, dim)
    gradients = torch.autograd.grad((factors * surrogate).sum(), leaves, allow_unused=True)
    for gradient, reference, leaf in zip(gradients, expected, leaves, strict=True):
        zero = torch.zeros_like(leaf)
        a, b = (zero if g is None else g for g in (gradient, reference))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert isinstance(estimate.bias_bound, float)
    assert (series - exact).abs().max().item() <= estimate.bias_bound
    bounds = psi.block_bounds()
    bound = min(dim, width) * (bounds ** (terms + 1) / ((terms + 1) * (1 - bounds))).sum()
    assert estimate.bias_bound == pytest.approx(float(bound), rel=1e-12)
    torch.testing.assert_close(value.detach(), net(x).repeat_interleave(2**dim, dim=0).detach(), rtol=1e-12, atol=1e-13)


def test_many_terms_give_the_exact_log_det_and_its_gradient():
    net = oracles.random_network(3, seed=47, lipschitz=0.7, gain=3.0)  # 0.7**90 < 1e-13
    x = oracles.randn(3, 3, seed=48).requires_grad_()
    leaves = [x, *net.parameters()]
    exact = net.forward_and_log_det(x)[1]
    expected = torch.autograd.grad(exact.sum(), leaves, allow_unused=True)
    with oracles.every_sign(3):
        estimate = net.estimate_log_det(oracles.for_every_sign(x), terms=90)[1]
    torch.testing.assert_close(oracles.mean_over_signs(estimate.value, 3), exact.detach(), rtol=1e-10, atol=1e-11)
    gradients = torch.autograd.grad(oracles.mean_over_signs(estimate.surrogate, 3).sum(), leaves, allow_unused=True)
    for gradient, reference in zip(gradients, expected, strict=True):
        if reference is None:  # the last bias moves the value only
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-10)


def test_the_log_det_estimate_of_members_is_that_of_their_networks():
    net = oracles.random_network(3, seed=49, members=2, lipschitz=0.8)
    x = oracles.randn(2, 4, 3, seed=50)
    with oracles.every_sign(3):
        estimate = net.estimate_log_det(oracles.for_every_sign(x), terms=4)[1]
    assert estimate.bias_bound.shape == (2,)
    for e in range(2):
        single = oracles.member(net, e)
        with oracles.every_sign(3):
            alone = single.estimate_log_det(oracles.for_every_sign(x[e]), terms=4)[1]
        torch.testing.assert_close(estimate.value[e], alone.value, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(estimate.surrogate[e], alone.surrogate, rtol=1e-11, atol=1e-12)
        assert float(estimate.bias_bound[e]) == pytest.approx(alone.bias_bound, rel=1e-12)


def test_random_signs_are_fair():
    """The estimates themselves, with their own signs, at one point 20,000 times: within five standard errors."""
    net = oracles.random_network(6, seed=51, width=4, lipschitz=0.8, gain=3.0)
    x = oracles.randn(1, 6, seed=52)
    many, generator = x.expand(20_000, -1), oracles.generator(3)
    with torch.no_grad():
        divergence = net.estimate_divergence(many, generator=generator)[1]
        log_det = net.estimate_log_det(many, terms=6, generator=generator)[1].value
        exact = [net.forward_and_divergence(x)[1], traces_of_powers(net, x, 6)]
    for estimate, truth in zip((divergence, log_det), exact, strict=True):
        assert abs(float(estimate.mean() - truth)) < 5 * float(estimate.std()) / math.sqrt(20_000)
        assert float(estimate.std()) > 0.01


@pytest.mark.parametrize("method", ["estimate_divergence", "estimate_log_det"])
def test_estimates_are_determined_by_their_generator(method):
    net = oracles.random_network(6, seed=53)
    x = oracles.randn(2, 5, 6, seed=54)
    state = torch.get_rng_state()

    def values(seed: int) -> Tensor:
        value, estimate = getattr(net, method)(x, generator=oracles.generator(seed))
        assert value.shape == x.shape
        return estimate if method == "estimate_divergence" else estimate.value

    assert values(1).shape == (2, 5)
    assert torch.equal(values(1), values(1))
    assert not torch.equal(values(1), values(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_estimates_follow_the_dtype():
    net = oracles.with_output(oracles.random_network(3, seed=55, dtype=torch.float32), torch.eye(3))
    x = oracles.randn(4, 3, seed=56, dtype=torch.float32)
    assert net.estimate_divergence(x)[1].dtype == torch.float32
    assert net.estimate_log_det(x)[1].value.dtype == torch.float32


# The losses with estimates


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("loss", ["log_det", "divergence"])
def test_a_loss_of_an_inexact_network_is_its_estimate_and_its_gradient_that_of_the_exact_one_on_average(loss, members):
    """Averaged over all signs. The log-determinant: its value is the truncated series', 20 terms at L = 0.4."""
    net = oracles.random_network(3, seed=57, members=members, lipschitz=0.4, gain=3.0)
    shape = (4, 3) if members is None else (members, 4, 3)
    x, z = oracles.randn(*shape, seed=58), oracles.randn(*shape, seed=59)
    factor = oracles.random_operator(3, 3, seed=60)
    function, metric = getattr(invlib, f"{loss}_loss"), factor @ factor.T
    parameters = list(net.parameters())
    exact = function(net, x, z, 0.7, metric=metric)
    net.exact = True
    assert torch.equal(exact, function(net, x, z, 0.7, metric=metric))  # small: exact by default
    expected = torch.autograd.grad(exact.sum(), parameters)
    net.exact = False
    with oracles.every_sign(3):
        estimate = function(net, oracles.for_every_sign(x), oracles.for_every_sign(z), 0.7, metric=metric)
    torch.testing.assert_close(estimate, exact, rtol=1e-8, atol=1e-8)
    for gradient, reference in zip(torch.autograd.grad(estimate.sum(), parameters), expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    ("loss", "dim", "width", "exact"),
    [
        ("divergence", 16, 4, True),
        ("divergence", 17, 4, False),
        ("log_det", 64, 65, True),
        ("log_det", 65, 64, True),
        ("log_det", 65, 65, False),
    ],
)
def test_the_default_is_exact_up_to_the_documented_size(loss, dim, width, exact):
    net = oracles.random_network(dim, seed=61, width=width, blocks=1)
    x, z = oracles.randn(2, dim, seed=62), oracles.randn(2, dim, seed=63)
    function = getattr(invlib, f"{loss}_loss")
    values = []
    for net.exact in (None, exact, not exact):
        values.append(function(net, x, z, 0.7, generator=oracles.generator(1)))
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_training_in_many_dimensions_uses_the_estimate_and_the_generator():
    """20 dimensions, a Gaussian prior, H = I: reproducible, and the minimum is the closed one."""
    dim = 20
    prior = invlib.GaussianMixture([1.0], torch.zeros(1, dim), torch.eye(dim)[None])
    problem = invlib.LinearProblem(torch.eye(dim), 0.5)
    results = []
    for _ in range(2):
        net = IResNet(dim, blocks=1, width=16, dtype=F64, generator=oracles.generator(0))
        history = invlib.train(net, problem, prior, "divergence", steps=3, batch_size=8, generator=oracles.generator(1))
        results.append(history.loss)
    assert torch.equal(*results)
    assert history.minimum == pytest.approx(dim * (0.5 * 0.25 - 0.25 - 0.5 * 0.0625), rel=0.01)
