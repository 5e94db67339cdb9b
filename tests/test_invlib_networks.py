"""Tests of `invlib.networks`: certified bounds, exact Jacobians and the member axis, against plain formulas."""

import copy

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import invlib
from invlib import IResNet
from invlib.dense import DenseBlock
from invlib.errors import DifferentiatedTwiceError
from invlib.linalg import spectral_norm

DTYPES = [torch.float32, torch.float64]


def numpy_block_products(net: IResNet) -> np.ndarray:
    """The product of the three spectral norms of every block, (E, K), by numpy's singular values in float64."""
    products = 1.0
    for weight in net.effective_weights():
        products = products * np.linalg.svd(weight.detach().double().numpy(), compute_uv=False)[..., 0]
    return products


# Spectral norm


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (2, 9), (9, 2), (5, 5), (64, 3), (3, 64), (64, 64)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_spectral_norm_is_the_largest_singular_value(shape, dtype, tolerance):
    weight = oracles.randn(4, 3, *shape, seed=1, dtype=dtype)
    expected = np.linalg.svd(weight.double().numpy(), compute_uv=False)[..., 0]
    np.testing.assert_allclose(spectral_norm(weight).numpy(), expected, rtol=tolerance)


def matrix_with_singular_values(values: list[float], rows: int, columns: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    u, v = np.linalg.qr(rng.normal(size=(rows, rows)))[0], np.linalg.qr(rng.normal(size=(columns, columns)))[0]
    count = len(values)
    return torch.from_numpy(u[:, :count] @ np.diag(values) @ v[:, :count].T)


@pytest.mark.parametrize(
    "values",
    [[2.0, 2.0, 2.0], [2.0, 2.0, 1.0], [2.0, 2.0 - 1e-9, 1.0], [3.0, 0.0, 0.0], [1e-8, 1e-8, 0.0]],
)
def test_spectral_norm_with_repeated_or_vanishing_singular_values(values):
    """The value is right, and the gradient is a finite subgradient: unit nuclear norm, <G, W> = |W|."""
    weight = matrix_with_singular_values(values, 5, 3, seed=2).requires_grad_()
    norm = spectral_norm(weight)
    assert norm.item() == pytest.approx(max(values), rel=1e-12)
    (gradient,) = torch.autograd.grad(norm, weight)
    assert (gradient * weight).sum().item() == pytest.approx(max(values), rel=1e-12)
    assert float(torch.linalg.svdvals(gradient).sum()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2), (1, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_spectral_norm_of_zero_is_zero_with_a_finite_gradient(shape, dtype):
    weight = torch.zeros(2, *shape, dtype=dtype, requires_grad=True)
    norm = spectral_norm(weight)
    assert norm.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(norm.sum(), weight)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_zero_have_a_finite_gradient(dtype):
    net = IResNet(2, dtype=dtype)
    with torch.no_grad():
        for weight in net.weights:
            weight.zero_()
    net(torch.ones(3, 2, dtype=dtype)).sum().backward()
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in net.weights)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        *((torch.float32, scale) for scale in (1e-25, 1e-15, 1e15, 1e25)),
        *((torch.float64, scale) for scale in (1e-200, 1e200)),
    ],
)
@pytest.mark.parametrize("shape", [(5, 4), (4, 5), (2, 2)])
def test_spectral_norm_is_homogeneous_even_where_squares_leave_the_floating_point_range(dtype, scale, shape):
    weight = oracles.randn(*shape, seed=3, dtype=dtype)
    expected = float(np.linalg.svd(weight.double().numpy(), compute_uv=False)[0])
    assert float(spectral_norm(weight * scale)) / scale == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 3), (2, 6), (6, 2), (1, 4)])
def test_gradient_of_spectral_norm_equals_finite_differences(shape):
    """Of a weighted sum over a stack, in random directions; the top singular values are simple."""
    weight = oracles.randn(4, *shape, seed=4).requires_grad_()
    factors = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((factors * spectral_norm(weight)).sum(), weight)
    for seed in range(5):
        direction = oracles.randn(4, *shape, seed=10 + seed)
        slope = oracles.directional_difference(
            lambda: (factors * torch.linalg.svdvals(weight)[..., 0]).sum(), weight, direction, 1e-6
        )
        assert (gradient * direction).sum().item() == pytest.approx(float(slope), rel=1e-7, abs=1e-8)


# Certified bounds


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lipschitz", [0.5, 0.97, 0.99])
@pytest.mark.parametrize("gain", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("dim", "width"), [(1, 4), (2, 32), (3, 2), (5, 64)])
def test_every_block_obeys_its_lipschitz_bound_by_numpys_singular_values(dim, width, gain, lipschitz, dtype):
    net = oracles.random_network(
        dim, seed=5, width=width, lipschitz=lipschitz, gain=gain, dtype=dtype, members=2, blocks=4
    )
    products = numpy_block_products(net)
    assert products.max() <= lipschitz * (1 + 1e-6)
    np.testing.assert_allclose(net.block_bounds().numpy(), products, rtol=1e-12)
    if gain >= 1:  # the budget is used, not wasted
        assert products.min() >= lipschitz * (1 - 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("learning_rate", [0.3, 30.0])
def test_every_block_obeys_its_lipschitz_bound_after_wild_training_steps(learning_rate, dtype):
    """No update call, no buffer: the bound holds after every step, in the state in which the network is used."""
    net = oracles.random_network(2, seed=6, members=3, dtype=dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    x = oracles.randn(3, 20, 2, seed=7, dtype=dtype)
    for _ in range(10):
        optimizer.zero_grad()
        (net(x) - 10 * x).square().sum().backward()
        optimizer.step()
        assert numpy_block_products(net).max() <= net.lipschitz * (1 + 1e-6)


def test_weights_below_the_bound_are_left_alone():
    net = oracles.random_network(2, seed=8, gain=0.01)
    for effective, weight in zip(net.effective_weights(), net.weights, strict=True):
        assert torch.equal(effective, weight)


def test_only_the_product_of_the_norms_matters_and_the_last_layer_is_scaled():
    net = oracles.random_network(2, seed=9, gain=2.0)
    first, second, third = net.effective_weights()
    assert torch.equal(first, net.weights[0])
    assert torch.equal(second, net.weights[1])
    ratio = third / net.weights[2]
    torch.testing.assert_close(ratio, ratio[..., :1, :1].expand_as(ratio))


@pytest.mark.parametrize("members", [None, 3])
def test_lipschitz_bounds_are_the_products_over_the_blocks(members):
    net = oracles.random_network(2, seed=10, members=members)
    products = numpy_block_products(net)
    lower, upper = net.lipschitz_bounds()
    if members is None:
        assert isinstance(lower, float)
        assert isinstance(upper, float)
        lower, upper = [lower], [upper]
    np.testing.assert_allclose(lower, (1 - products).prod(-1), rtol=1e-9)
    np.testing.assert_allclose(upper, (1 + products).prod(-1), rtol=1e-9)


@pytest.mark.parametrize("lipschitz", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("distance", [1e-6, 1e-2, 1.0, 100.0])
def test_lipschitz_bounds_hold_on_random_pairs(lipschitz, distance):
    net = oracles.random_network(3, seed=11, lipschitz=lipschitz, gain=5.0)
    a = 3 * oracles.randn(2000, 3, seed=12)
    b = a + distance * oracles.randn(2000, 3, seed=13)
    ratio = (net(a) - net(b)).detach().norm(dim=-1) / (a - b).norm(dim=-1)
    lower, upper = net.lipschitz_bounds()
    slack = 1e-14 / distance * 1e3  # rounding of values of size 10 or so
    assert lower * (1 - slack) - slack <= float(ratio.min())
    assert float(ratio.max()) <= upper * (1 + slack) + slack


@pytest.mark.parametrize("lipschitz", [0.9, 0.99])
def test_lipschitz_bounds_hold_on_tiny_pairs_along_the_worst_singular_directions(lipschitz):
    """The most adverse pairs: where and along which the Jacobian stretches most and least, found by search."""
    net = oracles.random_network(2, seed=14, lipschitz=lipschitz, gain=5.0, blocks=2, width=4)
    lower, upper = net.lipschitz_bounds()
    points = torch.from_numpy(oracles.grid(2, 6.0, 101))
    _, values, directions = torch.linalg.svd(oracles.plain_jacobians(net, points))
    for index, column in ((int(values[:, 0].argmax()), 0), (int(values[:, 1].argmin()), 1)):
        a, direction = points[index], directions[index, column]
        for distance in (1e-5, 1e-3):
            ratio = (net(a + distance * direction) - net(a - distance * direction)).norm().item() / (2 * distance)
            assert lower - 1e-9 <= ratio <= upper + 1e-9
    assert float(values[:, 0].max()) > 1.1  # the search has found real stretching
    assert float(values[:, 1].min()) < 0.9


def test_upper_bound_is_nearly_attained_by_a_steep_block():
    """In 1-D with large biases the activations are linear: the slope reaches 1 + L, the bound is no fantasy."""
    net = IResNet(1, blocks=1, width=1, lipschitz=0.9, dtype=torch.float64, generator=oracles.generator(0))
    with torch.no_grad():
        for weight in net.weights:
            weight.fill_(1.0)
        for bias in net.biases:
            bias.fill_(1e9)
    _, jacobian = net.forward_and_jacobian(torch.zeros(1, 1, dtype=torch.float64))
    assert jacobian.item() == pytest.approx(1.9, rel=1e-12)
    assert net.lipschitz_bounds()[1] == pytest.approx(1.9, rel=1e-12)


# Values and Jacobians


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_forward_equals_the_plain_network(dim, gain):
    net = oracles.random_network(dim, seed=15, gain=gain)
    x = oracles.randn(20, dim, seed=16)
    parameters = list(net.parameters())
    expected = torch.stack([oracles.plain_network(parameters, point, net.lipschitz) for point in x])
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize("blocks", [1, 4])
def test_jacobian_log_det_and_divergence_equal_those_of_torch_func(dim, blocks):
    net = oracles.random_network(dim, seed=17, blocks=blocks, gain=2.0)
    x = oracles.randn(20, dim, seed=18)
    expected = oracles.plain_jacobians(net, x)
    value, jacobian = net.forward_and_jacobian(x)
    torch.testing.assert_close(jacobian, expected, rtol=1e-11, atol=1e-11)
    value_too, log_det = net.forward_and_log_det(x)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(expected).logabsdet, rtol=1e-10, atol=1e-10)
    value_three, divergence = net.forward_and_divergence(x)
    torch.testing.assert_close(divergence, torch.einsum("bii->b", expected), rtol=1e-11, atol=1e-11)
    for other in (value, value_too, value_three):
        torch.testing.assert_close(other, net(x), rtol=1e-13, atol=1e-13)


def test_determinant_is_positive_everywhere():
    """A homotopy to the identity: the sign that log|det| drops is +1."""
    net = oracles.random_network(3, seed=19, lipschitz=0.99, gain=5.0)
    jacobian = oracles.plain_jacobians(net, 4 * oracles.randn(200, 3, seed=20))
    assert float(torch.linalg.det(jacobian).min()) > 0


@pytest.mark.parametrize("quantity", ["value", "jacobian", "log_det", "divergence"])
def test_gradients_of_weighted_sums_in_all_parameters_and_in_x_equal_torch_func(quantity):
    """Random weights per point: a surrogate that is right only for the plain mean fails here."""
    net = oracles.random_network(2, seed=21, gain=2.0, width=5)
    x = oracles.randn(6, 2, seed=22).requires_grad_()
    size = {"value": (6, 2), "jacobian": (6, 2, 2), "log_det": (6,), "divergence": (6,)}[quantity]
    factors = oracles.randn(*size, seed=23)
    ours = net(x) if quantity == "value" else getattr(net, f"forward_and_{quantity}")(x)[1]
    gradients = torch.autograd.grad((factors * ours).sum(), [*net.parameters(), x], allow_unused=True)

    def plain(parameters: tuple, points: torch.Tensor) -> torch.Tensor:
        def at(point: torch.Tensor) -> torch.Tensor:
            return oracles.plain_network(parameters, point, net.lipschitz)

        if quantity == "value":
            return (factors * torch.func.vmap(at)(points)).sum()
        jacobian = torch.func.vmap(torch.func.jacrev(at))(points)
        if quantity == "log_det":
            return (factors * torch.linalg.slogdet(jacobian).logabsdet).sum()
        if quantity == "divergence":
            return (factors * torch.einsum("bii->b", jacobian)).sum()
        return (factors * jacobian).sum()

    detached = tuple(parameter.detach() for parameter in net.parameters())
    expected, expected_x = torch.func.grad(plain, argnums=(0, 1))(detached, x.detach())
    for gradient, reference in zip(gradients, (*expected, expected_x), strict=True):
        ours = torch.zeros_like(reference) if gradient is None else gradient
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("members", [1, 2])
def test_the_written_out_gradient_of_value_and_jacobian_equals_finite_differences(members, dim):
    """All inputs, all outputs, by torch's own gradient checker."""
    net = oracles.random_network(dim, seed=26, gain=2.0, width=4, blocks=1, members=members)
    (block,) = net.residual_blocks()
    tensors = [t.detach().requires_grad_() for t in (*block.weights, *block.biases)]
    x = oracles.randn(members, 5, dim, seed=27).requires_grad_()

    def value_and_jacobian(x: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return DenseBlock(list(tensors[:3]), list(tensors[3:])).value_and_jacobian(x)

    assert torch.autograd.gradcheck(value_and_jacobian, (x, *tensors))


def test_second_derivatives_of_the_jacobian_raise():
    net = oracles.random_network(2, seed=28)
    x = oracles.randn(4, 2, seed=29).requires_grad_()
    with pytest.raises(DifferentiatedTwiceError, match=r"^the Jacobian has first derivatives only"):
        torch.autograd.grad(net.forward_and_divergence(x)[1].sum(), x, create_graph=True)


def test_gradient_of_a_weighted_log_det_equals_finite_differences():
    net = oracles.random_network(3, seed=24, gain=2.0)
    x, factors = oracles.randn(10, 3, seed=25), oracles.randn(10, seed=26)

    def weighted() -> torch.Tensor:
        return (factors * net.forward_and_log_det(x)[1]).sum()

    gradients = torch.autograd.grad(weighted(), list(net.parameters()), allow_unused=True)
    for index, (parameter, gradient) in enumerate(zip(net.parameters(), gradients, strict=True)):
        direction = oracles.randn(*parameter.shape, seed=27 + index)
        slope = float(oracles.directional_difference(weighted, parameter, direction, 1e-5))
        ours = 0.0 if gradient is None else float((gradient * direction).sum())
        assert ours == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_log_det_of_the_inverse_is_minus_the_log_det_at_x():
    """Against the determinant of a finite-difference Jacobian of the inverse at z."""
    net = oracles.random_network(2, seed=28, gain=2.0)
    z, step = oracles.randn(10, 2, seed=29), 1e-5
    x = net.inverse(z).detach()
    columns = [
        (net.inverse(z + step * e) - net.inverse(z - step * e)).detach() / (2 * step)
        for e in torch.eye(2, dtype=torch.float64)
    ]
    inverse_log_det = torch.linalg.slogdet(torch.stack(columns, dim=-1)).logabsdet
    torch.testing.assert_close(inverse_log_det, -net.forward_and_log_det(x)[1], rtol=1e-6, atol=1e-7)
    at_z = net.forward_and_log_det(z)[1]  # negative control: evaluated at z it is something else
    assert (inverse_log_det + at_z).abs().max().item() > 1e-2


# Members


@pytest.mark.parametrize("members", [1, 3])
def test_an_ensemble_equals_the_loop_over_its_single_networks(members):
    net = oracles.random_network(2, seed=30, members=members, gain=2.0)
    x = oracles.randn(members, 15, 2, seed=31)
    singles = [oracles.member(net, e) for e in range(members)]
    for method in ("forward", "forward_and_jacobian", "forward_and_log_det", "forward_and_divergence"):
        together = getattr(net, method)(x)
        together = together if isinstance(together, tuple) else (together,)
        for e, single in enumerate(singles):
            alone = getattr(single, method)(x[e])
            alone = alone if isinstance(alone, tuple) else (alone,)
            for ours, theirs in zip(together, alone, strict=True):
                torch.testing.assert_close(ours[e], theirs, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        net.lipschitz_bounds(), zip(*[s.lipschitz_bounds() for s in singles], strict=True), strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12)


def test_members_do_not_see_each_other():
    net = oracles.random_network(2, seed=32, members=3)
    x = oracles.randn(3, 5, 2, seed=33)
    before = net(x).detach().clone()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter[1].normal_(generator=oracles.generator(34))
    after = net(x).detach()
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    dim=st.integers(1, 5),
    blocks=st.integers(1, 4),
    width=st.integers(1, 9),
    members=st.integers(1, 4),
    lipschitz=st.floats(0.05, 0.99),
    gain=st.floats(0.1, 10.0),
    seed=st.integers(0, 2**31 - 2),
)
def test_property_ensemble_equals_the_plain_single_networks(dim, blocks, width, members, lipschitz, gain, seed):
    net = oracles.random_network(
        dim, blocks=blocks, width=width, members=members, lipschitz=lipschitz, gain=gain, seed=seed
    )
    x = 2 * oracles.randn(members, 4, dim, seed=seed)
    value, jacobian = net.forward_and_jacobian(x)
    log_det = net.forward_and_log_det(x)[1]
    assert numpy_block_products(net).max() <= lipschitz * (1 + 1e-6)
    for e in range(members):
        single = oracles.member(net, e)
        parameters = list(single.parameters())
        expected = torch.stack([oracles.plain_network(parameters, point, lipschitz) for point in x[e]])
        expected_jacobian = oracles.plain_jacobians(single, x[e])
        torch.testing.assert_close(value[e], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(jacobian[e], expected_jacobian, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(log_det[e], torch.linalg.slogdet(expected_jacobian).logabsdet, rtol=1e-8, atol=1e-8)


# The module


def test_train_and_eval_make_no_difference_and_evaluation_changes_nothing():
    net = oracles.random_network(2, seed=35, members=2)
    assert list(net.buffers()) == []
    state = copy.deepcopy(net.state_dict())
    x = oracles.randn(2, 10, 2, seed=36)
    results = []
    for _ in range(2):
        for mode in (True, False):
            net.train(mode)
            results.append(
                [
                    net(x),
                    *net.forward_and_log_det(x),
                    net.forward_and_jacobian(x)[1],
                    net.inverse(x),
                    *net.lipschitz_bounds(),
                ]
            )
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[0], other, strict=True))
    assert net.state_dict().keys() == state.keys()
    settings = net.state_dict().pop("_extra_state")
    assert settings == state.pop("_extra_state")
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in state.items())


def test_state_dict_reproduces_the_network():
    net, other = oracles.random_network(2, seed=37), oracles.random_network(2, seed=38)
    x = oracles.randn(10, 2, seed=39)
    assert not torch.equal(net(x), other(x))
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(x), other(x))


@pytest.mark.parametrize("members", [None, 2])
def test_settings_that_change_the_map_are_part_of_the_state(members, tmp_path):
    """The bound of the blocks and the fixed last layer: loading into another network gives the saved map, whole."""
    matrix = oracles.random_operator(2, 2, seed=37)
    net = oracles.with_output(oracles.random_network(2, seed=37, members=members, lipschitz=0.8), matrix)
    x = oracles.randn(*((members,) if members else ()), 10, 2, seed=39)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    for operator in (None, 3 * matrix):
        other = IResNet(2, width=8, lipschitz=0.5, members=members, output_operator=operator, dtype=torch.float64)
        other.load_state_dict(state)
        assert other.lipschitz == 0.8
        assert torch.equal(other.output_operator, net.output_operator)
        assert torch.equal(other(x), net(x))
        assert torch.equal(other.inverse(x), net.inverse(x))
    without = oracles.random_network(2, seed=40, members=members)
    other.load_state_dict(without.state_dict())
    assert other.output_operator is None
    assert torch.equal(other(x), without(x))


def test_the_last_layer_of_a_float32_network_is_saved_unrounded():
    matrix = torch.tensor([[1 / 3, 0.0], [0.0, 1 / 7]], dtype=torch.float64)
    net, other = IResNet(2, output_operator=matrix), IResNet(2)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.output_operator[0], matrix)


@pytest.mark.parametrize("change", [{"activation": "tanh"}, {"activation": "softplus"}])
def test_the_state_of_another_activation_is_refused(change):
    state = IResNet(2, **change).state_dict()
    with pytest.raises(ValueError, match=rf"^activation must be that of the saved network, '{change['activation']}'"):
        IResNet(2).load_state_dict(state)


def test_a_last_layer_that_does_not_fit_is_refused():
    state = IResNet(3, output_operator=torch.eye(3)).state_dict()
    with pytest.raises((ValueError, RuntimeError), match=r"output_operator|size mismatch"):
        IResNet(2).load_state_dict(state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["block_bounds", "lipschitz_bounds", "solve_inverse"])
def test_a_network_that_has_diverged_certifies_nothing_and_names_the_parameter(method, bad):
    net = oracles.random_network(2, seed=41)
    with torch.no_grad():
        net.weights[1][0, 1, 0, 0] = bad
    x = oracles.randn(3, 2, seed=42)
    arguments = (x,) if method == "solve_inverse" else ()
    with pytest.raises(ValueError, match=r"^parameter weights\.1 of the network must be finite, got (nan|inf)"):
        getattr(net, method)(*arguments)
    assert "bounds=unknown" in repr(net)
    with pytest.raises((invlib.InversionError, torch.linalg.LinAlgError), match=r"are the parameters .* finite"):
        net.inverse(x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(bad)
    with pytest.raises((invlib.InversionError, torch.linalg.LinAlgError), match=r"are the parameters .* finite"):
        net.inverse(x)


METHODS = [
    "forward",
    "forward_and_jacobian",
    "forward_and_log_det",
    "forward_and_divergence",
    "estimate_divergence",
    "estimate_log_det",
    "inverse",
    "solve_inverse",
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_is_refused_by_name(method, dtype):
    net = IResNet(2).to(dtype)
    with pytest.raises(ValueError, match=rf"^the parameters of the network must all be float32, or all .* got {dtype}"):
        getattr(net, method)(torch.zeros(3, 2))
    assert "bounds=unknown" in repr(net)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_of_mixed_dtypes_is_refused_by_name(method):
    net = IResNet(2)
    net.biases[1] = torch.nn.Parameter(net.biases[1].detach().double())
    with pytest.raises(
        ValueError, match=r"^the parameters of the network must all .* got torch.float32, torch.float64"
    ):
        getattr(net, method)(torch.zeros(3, 2))


@pytest.mark.parametrize("method", METHODS)
def test_a_network_on_another_device_is_named(method):
    net = IResNet(2).to("meta")
    with pytest.raises(ValueError, match=r"^[xz] must be on the device meta, got cpu"):
        getattr(net, method)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"^parameter weights\.0 of the network must have values"):
        net.block_bounds()
    assert "bounds=unknown" in repr(net)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("members", "shape"), [(None, ()), (None, (7,)), (None, (3, 4)), (None, (0,))])
def test_leading_dimensions_are_kept_by_a_single_network(members, shape, dtype):
    net = oracles.random_network(3, seed=40, dtype=dtype)
    x = oracles.randn(*shape, 3, seed=41, dtype=dtype)
    value, jacobian = net.forward_and_jacobian(x)
    _, log_det = net.forward_and_log_det(x)
    assert (net(x).shape, value.shape) == ((*shape, 3), (*shape, 3))
    assert (jacobian.shape, log_det.shape) == ((*shape, 3, 3), shape)
    assert {value.dtype, jacobian.dtype, log_det.dtype} == {dtype}
    if x.numel():
        point, where = x.reshape(-1, 3)[-1], (-1,) * len(shape)
        torch.testing.assert_close(value[where], net(point))
        torch.testing.assert_close(jacobian[where], net.forward_and_jacobian(point)[1])


@pytest.mark.parametrize("shape", [(2,), (2, 5), (2, 3, 4), (2, 0)])
def test_leading_dimensions_are_kept_by_an_ensemble(shape):
    net = oracles.random_network(3, seed=42, members=2)
    x = oracles.randn(*shape, 3, seed=43)
    value, jacobian = net.forward_and_jacobian(x)
    assert (value.shape, jacobian.shape) == ((*shape, 3), (*shape, 3, 3))
    for e in range(2):
        single = oracles.member(net, e)
        torch.testing.assert_close(value[e], single(x[e]))
        torch.testing.assert_close(jacobian[e], single.forward_and_jacobian(x[e])[1])


def test_initial_weights_are_determined_by_the_generator_alone():
    state = torch.get_rng_state()
    first, second = (IResNet(2, members=2, generator=oracles.generator(1)) for _ in range(2))
    other = IResNet(2, members=2, generator=oracles.generator(2))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b, c in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.any() or not torch.equal(a, c)


def test_dtype_follows_torchs_default_or_the_argument():
    assert {p.dtype for p in IResNet(2).parameters()} == {torch.float32}
    assert {p.dtype for p in IResNet(2, dtype=torch.float64).parameters()} == {torch.float64}


@pytest.mark.parametrize(("dim", "width"), [(2, 8), (2, 2), (3, 3), (1, 1)])
def test_last_biases_start_at_zero_also_where_the_width_equals_the_dimension(dim, width):
    assert not IResNet(dim, width=width, generator=oracles.generator(0)).biases[2].any()


@pytest.mark.parametrize("members", [None, 2])
def test_repr_shows_sizes_and_certified_bounds(members):
    net = IResNet(2, blocks=1, width=4, lipschitz=0.9, members=members, generator=oracles.generator(0))
    text = f"dim=2, blocks=1, width=4, {'' if members is None else 'members=2, '}lipschitz=0.9, bounds=(0.1, 1.9)"
    assert text in repr(net)


def test_repr_of_an_ensemble_shows_bounds_that_hold_for_every_member():
    net = oracles.random_network(2, seed=1, members=2)
    with torch.no_grad():
        net.weights[2][0] *= 1e-3
    lower, upper = net.lipschitz_bounds()
    assert lower[1] < lower[0]
    assert upper[1] > upper[0]
    assert f"bounds=({lower[1]:.3g}, {upper[1]:.3g})" in repr(net)


@pytest.mark.parametrize("members", [None, 3])
def test_pushforward_score_equals_differences_of_the_density_by_change_of_variables(members):
    """log q(z) = log p_X(x) - log|det D phi(x)| at x = phi^{-1}(z), differenced in z."""
    net = oracles.random_network(2, seed=70, members=members)
    prior = oracles.random_mixture(2, 2, seed=71)
    x = oracles.randn(*(() if members is None else (members,)), 20, 2, seed=72)

    def log_q(z):
        point = net.inverse(z, tol=1e-13)
        return prior.log_prob(point) - net.forward_and_log_det(point)[1]

    with torch.no_grad():
        z, step = net(x), 1e-5
        shifts = step * torch.eye(2, dtype=torch.float64)
        expected = torch.stack([(log_q(z + v) - log_q(z - v)) / (2 * step) for v in shifts], dim=-1)
    score = net.pushforward_score(x, prior.score(x))
    torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-6)
    assert not score.requires_grad
    with torch.inference_mode():
        again = net.pushforward_score(x, prior.score(x))
        fresh = net.pushforward_score(x + 0, prior.score(x + 0))  # of tensors that autograd must not see
    assert torch.equal(again, score)
    assert torch.equal(fresh, score)
    wrong = net.pushforward_score(x, prior.score(x) + 0.1)
    assert float((wrong - expected).abs().min()) > 1e-3
