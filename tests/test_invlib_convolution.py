"""Convolutional residual networks: bounds, any grid, coloured probes, the inverse without Jacobians."""

import math

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

import invlib
from invlib import ConvIResNet
from invlib.convolution import ConvBlock, convolution_norm

F64 = torch.float64
GRIDS = [(7,), (16,), (3, 4), (6, 5)]
EDGES = ["circular", "reflecting"]


def network(shape: tuple[int, ...], *, seed: int = 0, gain: float = 1.0, **options: object) -> ConvIResNet:
    """A network whose last bias is not zero; `gain` makes it steeper."""
    options = {"blocks": 2, "channels": 4, "dtype": F64, **options}
    net = ConvIResNet(shape, generator=oracles.generator(seed), **options)
    with torch.no_grad():
        for weight in net.weights:
            weight.mul_(gain)
        net.biases[2].copy_(oracles.randn(*net.biases[2].shape, seed=seed + 1))
    return net


def circulant(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The matrix of a circular convolution, (out * n, in * n), entry by entry, kernel (out, in, k, ...)."""
    outputs, inputs, size = kernel.shape[:3]
    count = math.prod(shape)
    matrix = np.zeros((outputs, count, inputs, count))
    for at in np.ndindex(*shape):
        for offset in np.ndindex(*kernel.shape[2:]):
            seen = tuple((i + o - size // 2) % length for i, o, length in zip(at, offset, shape, strict=True))
            row, column = np.ravel_multi_index(at, shape), np.ravel_multi_index(seen, shape)
            matrix[:, row, :, column] += kernel[(slice(None), slice(None), *offset)]
    return matrix.reshape(outputs * count, inputs * count)


# The norm of a convolution


@pytest.mark.parametrize("shape", [(5,), (8,), (3, 4), (5, 3)])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (3, 1), (1, 4), (3, 2)])
def test_on_a_grid_the_norm_is_the_largest_singular_value_of_the_circulant_matrix(shape, outputs, inputs):
    kernel = oracles.randn(outputs, inputs, *[3] * len(shape), seed=3)
    expected = np.linalg.svd(circulant(kernel.numpy(), shape))[1].max()
    assert float(convolution_norm(kernel, len(shape), shape=shape)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_without_a_grid_the_norm_bounds_all_grids_and_is_nearly_attained(dims, size):
    for seed in range(20):
        kernel = oracles.randn(3, 2, *[size] * dims, seed=seed)
        bound = float(convolution_norm(kernel, dims))
        norms = [float(convolution_norm(kernel, dims, shape=(n,) * dims)) for n in (7, 10, 33, 61)]
        assert max(norms) <= bound * (1 + 1e-12)
        fine = float(convolution_norm(kernel, dims, shape=(256,) * dims))
        assert fine <= bound * (1 + 1e-12)
        assert bound <= fine / math.cos(math.pi * (size // 2) / 64) ** dims * (1 + 1e-12)


def test_between_its_frequencies_the_symbol_can_be_larger_but_not_than_the_bound():
    """The control: without the factor of Ehlich and Zeller, the largest value at 64 frequencies is too small."""
    between = 2 * math.pi * 10.5 / 64  # where the symbol of this kernel is largest
    kernel = torch.tensor([[[1.0, 4 * math.cos(between), -0.5]]], dtype=F64)
    fine = float(convolution_norm(kernel, shape=(4096,)))
    sampled = float(convolution_norm(kernel, shape=(64,)))
    assert sampled < fine * (1 - 1e-6)
    assert fine <= float(convolution_norm(kernel))


@pytest.mark.parametrize("dims", [1, 2])
def test_the_gradient_of_the_norm_equals_finite_differences(dims):
    kernel = oracles.randn(3, 2, *[3] * dims, seed=5).requires_grad_()
    (gradient,) = torch.autograd.grad(convolution_norm(kernel, dims), kernel)
    direction = oracles.randn(*kernel.shape, seed=6)
    difference = oracles.directional_difference(lambda: convolution_norm(kernel, dims), kernel, direction, 1e-6)
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-6)


# Blocks and networks


@pytest.mark.parametrize("shape", GRIDS)
def test_a_block_is_three_circulant_matrices(shape):
    net = network(shape, blocks=1)
    (block,) = net.residual_blocks()
    x = oracles.randn(1, net.dim, seed=7)
    first, second, third = (circulant(k[0].detach().numpy(), shape) for k in block.kernels)
    biases = [np.repeat(b[0].detach().numpy(), net.dim) for b in block.biases]

    hidden = oracles.activation(first @ x[0].numpy() + biases[0])
    hidden = oracles.activation(second @ hidden + biases[1])
    expected = x[0].numpy() + third @ hidden + biases[2]
    np.testing.assert_allclose(net(x)[0].detach().numpy(), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_reflecting_edges_are_the_circular_network_on_the_mirrored_grid(shape):
    """On a mirrored picture the mean over the mirror images of the circular branch is the branch with edges."""
    net = network(shape, blocks=1, edges="reflecting")
    doubled = network(tuple(2 * size for size in shape), blocks=1)
    x = oracles.randn(4, *shape, seed=8)
    mirrored, axes = x, range(1, x.ndim)
    for axis in axes:
        mirrored = torch.cat([mirrored, mirrored.flip(axis)], axis)
    branch = (doubled(mirrored.flatten(1)) - mirrored.flatten(1)).unflatten(1, mirrored.shape[1:])
    for axis in axes:
        one, other = branch.chunk(2, axis)
        branch = 0.5 * (one + other.flip(axis))
    torch.testing.assert_close(net(x.flatten(1)), x.flatten(1) + branch.flatten(1), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("gain", [1.0, 20.0])
def test_every_block_obeys_its_bound_by_numpys_singular_values(edges, shape, gain):
    net = network(shape, edges=edges, gain=gain, members=2)
    x = 3 * oracles.randn(2, 20, net.dim, seed=9)
    for block, bound in zip(net.residual_blocks(), net.block_bounds().T, strict=True):
        x, jacobian = block.value_and_jacobian(x)
        slopes = np.linalg.svd(jacobian.detach().numpy() - np.eye(net.dim), compute_uv=False)[..., 0].max(-1)
        assert (slopes <= bound.detach().numpy() * (1 + 1e-12)).all()
        assert float(bound.max()) <= net.lipschitz


def test_the_bound_is_nearly_attained():
    """One channel, linear where the activation is steep: a difference has the norm 2 at the highest frequency."""
    net = network((16,), blocks=1, channels=1, lipschitz=0.9)
    with torch.no_grad():
        net.weights[0].copy_(torch.tensor([0.0, 1e3, -1e3]))
        net.weights[1].fill_(1.0)
        net.weights[2].copy_(torch.tensor([0.0, 1.0, 0.0]))
        net.biases[0].fill_(1e6)
        net.biases[1].fill_(1e6)
    jacobian = net.forward_and_jacobian(torch.zeros(1, 16, dtype=F64))[1][0].detach()
    slope = float(torch.linalg.matrix_norm(jacobian - torch.eye(16), 2))
    share = math.cos(math.pi / 64) ** 2  # of the bound: both kernels of size 3 carry the factor for all grids
    assert slope == pytest.approx(0.9 * share, rel=1e-5)


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("shape", [*GRIDS, (40,), (23,)])
def test_coloured_probes_give_the_exact_divergence(edges, shape):
    net = network(shape, edges=edges)
    x = oracles.randn(3, net.dim, seed=10)
    divergence = net.forward_and_divergence(x, exact=True)[1]
    trace = net.forward_and_jacobian(x)[1].diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(divergence, trace, rtol=1e-12, atol=1e-12)


def test_probes_are_few_and_their_points_do_not_see_each_other():
    net = network((40,), blocks=2)  # radius 4
    assert net.radius == 4
    assert len(net._probes) == 5
    jacobian = net.forward_and_jacobian(oracles.randn(1, 40, seed=11))[1][0].detach()
    far = (torch.arange(40)[:, None] - torch.arange(40)).abs()
    far = torch.minimum(far, 40 - far)
    assert float(jacobian[far > 4].abs().max()) == 0.0
    assert float(jacobian[far == 4].abs().max()) > 0.0


@pytest.mark.parametrize("edges", EDGES)
def test_on_another_grid_it_is_the_same_network(edges):
    """A pattern of period 8 on a circle of 8 or of 24; with edges, far from them."""
    net = network((8, 8), edges=edges)
    large = net.on((24, 24))
    assert large.weights[0] is net.weights[0]
    assert (large.dim, net.dim) == (576, 64)
    x = oracles.randn(2, 8, 8, seed=12)
    if edges == "circular":
        tiled = large(x.tile(1, 3, 3).flatten(1)).unflatten(1, (24, 24))
        torch.testing.assert_close(tiled[:, :8, :8].flatten(1), net(x.flatten(1)), rtol=1e-12, atol=1e-12)
    else:
        padded = torch.zeros(2, 24, 24, dtype=F64)
        padded[:, :8, :8] = x
        other = net.on((30, 30))
        wider = torch.zeros(2, 30, 30, dtype=F64)
        wider[:, :24, :24] = padded
        one = large(padded.flatten(1)).unflatten(1, (24, 24))[:, :12, :12]
        two = other(wider.flatten(1)).unflatten(1, (30, 30))[:, :12, :12]
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    assert large.lipschitz_bounds() == net.lipschitz_bounds()


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("lipschitz", [0.5, 0.97])
def test_the_inverse_needs_no_jacobian_and_its_error_bound_holds(edges, lipschitz, monkeypatch):
    net = network((12, 10), edges=edges, lipschitz=lipschitz, gain=20.0)
    x = 3 * oracles.randn(5, net.dim, seed=13)
    z = net(x).detach()

    def refuse(*arguments: object) -> Tensor:
        raise AssertionError("a Jacobian was formed")

    monkeypatch.setattr(ConvBlock, "jacobian", refuse)
    monkeypatch.setattr(ConvBlock, "value_and_jacobian", refuse)
    solution = net.solve_inverse(z, tol=1e-8)
    assert bool(solution.converged.all())
    assert bool(((solution.x - x).norm(dim=-1) <= solution.error_bound).all())
    residual = (net(solution.x) - z).norm(dim=-1)
    torch.testing.assert_close(solution.residual, residual.detach(), rtol=1e-3, atol=1e-13)


@pytest.mark.parametrize("edges", EDGES)
def test_gradients_of_the_inverse_equal_finite_differences(edges):
    net = network((6,), edges=edges)
    z = oracles.randn(3, 6, seed=14).requires_grad_()
    weight = oracles.randn(3, 6, seed=15)
    leaves = [z, *net.parameters()]
    gradients = torch.autograd.grad((weight * net.inverse(z, tol=1e-13)).sum(), leaves)
    for seed, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        direction = oracles.randn(*leaf.shape, seed=20 + seed)

        def value() -> Tensor:
            return (weight * net.inverse(z, tol=1e-13)).sum()

        difference = oracles.directional_difference(value, leaf, direction, 1e-5)
        assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-6, abs=1e-8)


def test_newton_and_gmres_take_far_fewer_evaluations_than_the_fixed_point(monkeypatch):
    """A steep block: f is close to a multiple of the identity, so the fixed point contracts by about .97 a step."""
    net = network((64,), blocks=1, channels=2, lipschitz=0.97)
    with torch.no_grad():
        net.weights[0].copy_(torch.tensor([[0.0, 1e3, 0.0], [0.0, 1e3, 0.0]]))
        net.weights[1].copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        net.weights[2].copy_(torch.tensor([0.0, -1.0, 0.0, 0.0, -1.0, 0.0]))
        net.biases[0].copy_(oracles.randn(*net.biases[0].shape, seed=16))
        net.biases[1].fill_(0.5)
    (block,) = net.residual_blocks()
    z = oracles.randn(1, 1, 64, seed=17)

    x, steps = z, 0
    with torch.no_grad():
        while (block.value(x) - z).norm() > 1e-6 * z.norm():
            x, steps = x - (block.value(x) - z), steps + 1

    count = {"evaluations": 0}
    for name in ("linearize", "branch_tangent"):
        original = getattr(ConvBlock, name)

        def counted(self: ConvBlock, *arguments: Tensor, original: object = original) -> object:
            count["evaluations"] += 1
            return original(self, *arguments)

        monkeypatch.setattr(ConvBlock, name, counted)
    solution = net.solve_inverse(z[0], tol=1e-6)
    assert bool(solution.converged.all())
    assert steps >= 5 * count["evaluations"], (steps, count)


def test_the_series_of_the_log_determinant_misses_by_less_than_its_bias_bound():
    net = network((5,), blocks=2, channels=2, lipschitz=0.6).requires_grad_(False)
    x = oracles.randn(1, 5, seed=18)
    exact = float(net.forward_and_log_det(x, exact=True)[1].detach())
    x = x.expand(20_000, 5)
    estimate = net.estimate_log_det(x, terms=4, generator=oracles.generator(19))[1]
    error = 5 * float(estimate.value.std()) / 20_000**0.5
    assert abs(float(estimate.value.mean()) - exact) <= estimate.bias_bound + error


def test_defaults_by_size():
    small, large = network((16,)), network((17,))
    generator = oracles.generator(20)
    for net, exact in ((small, True), (large, False)):
        x = oracles.randn(1, net.dim, seed=21).expand(50, -1)
        for method in (net.forward_and_divergence, net.forward_and_log_det):
            spread = float(method(x, generator=generator)[1].detach().std())
            assert (spread < 1e-12) == exact


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("shape", lambda: ConvIResNet(8)),
        ("shape", lambda: ConvIResNet("88")),
        ("shape", lambda: ConvIResNet((8, 8, 8))),
        ("shape", lambda: ConvIResNet((0,))),
        ("shape", lambda: ConvIResNet((1, 8))),
        ("shape", lambda: ConvIResNet((8,)).on((8, 8))),
        ("shape", lambda: ConvIResNet((8,)).on((1,))),
        ("kernel", lambda: ConvIResNet((8,), kernel=2)),
        ("edges", lambda: ConvIResNet((8,), edges="zero")),
        ("channels", lambda: ConvIResNet((8,), channels=0)),
        ("blocks", lambda: ConvIResNet((8,), blocks=0)),
        ("lipschitz", lambda: ConvIResNet((8,), lipschitz=1.0)),
        ("dtype", lambda: ConvIResNet((8,), dtype=torch.float16)),
        ("x", lambda: ConvIResNet((8, 8))(torch.zeros(1, 8, 8))),
        ("dims", lambda: convolution_norm(torch.zeros(1, 1, 3), 3)),
        ("kernel", lambda: convolution_norm(torch.zeros(1, 1, 2))),
        ("kernel", lambda: convolution_norm(torch.zeros(1, 1, 3), 2)),
        ("shape", lambda: convolution_norm(torch.zeros(1, 1, 3), shape=(2,))),
        ("shape", lambda: convolution_norm(torch.zeros(1, 1, 3), shape=(8, 8))),
    ],
)
def test_bad_input_is_named(name, make):
    with pytest.raises(ValueError, match=rf"^{name} must"):
        make()


def test_state_from_a_file(tmp_path):
    net = network((8,), activation="tanh", edges="reflecting")
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other = network((8,), seed=5, activation="tanh", edges="reflecting")
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    x = oracles.randn(3, 8, seed=22)
    assert torch.equal(net(x), other(x))
    assert "edges='reflecting'" in repr(net)


def test_training_lowers_the_loss():
    net = ConvIResNet((8,), blocks=2, channels=4, generator=oracles.generator(0))
    prior = invlib.LogisticPrior([0.3] * 8)
    problem = invlib.LinearProblem(torch.eye(8), 0.3)
    history = invlib.train(net, problem, prior, "divergence", steps=60, batch_size=64, generator=oracles.generator(1))
    assert float(history.excess[-10:].mean()) < 0.2 * float(history.excess[:3].mean())
