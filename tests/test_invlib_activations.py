"""Tests of `invlib.activations`: the slopes are the derivatives, and the bounds on them are true."""

import copy
import math
import pickle

import numpy as np
import oracles
import pytest
import torch
from scipy import optimize

from invlib import ConvIResNet, IResNet
from invlib.activations import ACTIVATIONS, SMOOTH_ABS, SWISH, Activation, as_activation, smooth_abs

F32, F64 = torch.float32, torch.float64
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)


def plain(name: str, u: torch.Tensor) -> torch.Tensor:
    """The functions, written by elementary ones."""
    return {
        "smooth_abs": oracles.activation,
        "tanh": lambda u: 1 - 2 / (torch.exp(2 * u) + 1),
        "softplus": lambda u: torch.log1p(torch.exp(u)),
        "swish": lambda u: u / (1 + torch.exp(-u)),
    }[name](u)


@every_activation
def test_the_function_is_what_its_name_says_and_the_slope_its_derivative(activation):
    u = torch.linspace(-15, 15, 3001, dtype=F64)
    value, slope = activation.value_and_slope(u)
    torch.testing.assert_close(value, plain(activation.name, u), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(activation.function(u), value, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(activation.derivative(u), slope, rtol=1e-13, atol=1e-14)
    derivative = torch.func.vmap(torch.func.grad(lambda t: plain(activation.name, t)))(u)
    torch.testing.assert_close(slope, derivative, rtol=1e-9, atol=1e-11)


@every_activation
def test_autograd_agrees_with_the_slope_and_can_differentiate_it(activation):
    u = torch.linspace(-15, 15, 3001, dtype=F64, requires_grad=True)
    value, slope = activation.value_and_slope(u)
    (first,) = torch.autograd.grad(value.sum(), u, create_graph=True)
    torch.testing.assert_close(first, slope, rtol=1e-11, atol=1e-13)
    (second,) = torch.autograd.grad(slope.sum(), u)
    again = torch.func.vmap(torch.func.grad(torch.func.grad(lambda t: plain(activation.name, t))))(u.detach())
    torch.testing.assert_close(second, again, rtol=1e-7, atol=1e-9)


@every_activation
@pytest.mark.parametrize("dtype", [F32, F64])
def test_no_slope_exceeds_the_bound(activation, dtype):
    u = torch.cat([torch.linspace(-50, 50, 1_000_001), torch.logspace(-10, 30, 10_001)]).to(dtype)
    for side in (u, -u):
        assert float(activation.value_and_slope(side)[1].abs().max()) <= activation.slope_bound


@every_activation
def test_the_bound_is_no_fantasy(activation):
    u = torch.linspace(-50, 50, 100_001, dtype=F64)
    assert float(activation.value_and_slope(u)[1].abs().max()) > 0.999 * activation.slope_bound


def test_the_largest_slope_of_swish_is_where_the_docstring_says():
    """u tanh(u / 2) = 2 at the maximum, and the slope there is 1.09984."""
    where = optimize.brentq(lambda u: u * float(torch.tanh(torch.tensor(u / 2, dtype=F64))) - 2, 1, 4, xtol=1e-12)
    largest = SWISH.derivative(torch.tensor(where, dtype=F64)).item()
    assert largest == pytest.approx(1.09984, abs=1e-5)
    assert largest <= SWISH.slope_bound
    around = torch.linspace(where - 0.1, where + 0.1, 1001, dtype=F64)
    assert float(SWISH.derivative(around).max()) <= largest + 1e-14


@every_activation
@pytest.mark.parametrize("size", [1e10, 1e20, 1e30, 3e38])
def test_huge_arguments_neither_overflow_nor_lose_their_gradient(activation, size):
    for recorded in (False, True):
        u = torch.tensor([-size, size], dtype=F32, requires_grad=recorded)
        value, slope = activation.value_and_slope(u)
        left, right = {"tanh": (-1.0, 1.0), "smooth_abs": (size, size)}.get(activation.name, (0.0, size))
        torch.testing.assert_close(value.detach(), torch.tensor([left, right]), rtol=1e-6, atol=0)
        steep = {"tanh": (0.0, 0.0), "smooth_abs": (-1.0, 1.0)}.get(activation.name, (0.0, 1.0))
        torch.testing.assert_close(slope.detach(), torch.tensor(steep), rtol=1e-6, atol=0)
        if recorded:
            (gradient,) = torch.autograd.grad(value.sum(), u)
            torch.testing.assert_close(gradient, torch.tensor(steep), rtol=1e-6, atol=0)


@every_activation
def test_a_network_far_away_is_finite_and_right(activation):
    """|x| = 1e30 in single precision, where the square of x would overflow; against double precision."""
    net = IResNet(2, activation=activation, generator=oracles.generator(0))
    x = 1e30 * oracles.randn(20, 2, seed=1, dtype=F32)
    exact = net.double()
    expected = [exact(x.double()), exact.forward_and_jacobian(x.double())[1]]
    net.float()
    found = [net(x), net.forward_and_jacobian(x)[1]]
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-4, atol=1e26)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-4, atol=1e-4)
    for method in ("forward_and_log_det", "forward_and_divergence", "estimate_divergence"):
        assert bool(torch.isfinite(getattr(net, method)(x)[1]).all())
    assert bool(torch.isfinite(net.estimate_log_det(x)[1].value).all())


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
@every_activation
def test_a_copy_is_the_same_activation(activation, twin):
    """Or a copied network would take another way to its Jacobian, with other rounding."""
    assert twin(activation) == activation


def test_names_and_activations_are_both_accepted():
    sine = Activation("sine", torch.sin, torch.cos, slope_bound=1.0)
    assert as_activation("smooth_abs") is SMOOTH_ABS
    assert as_activation(sine) is sine
    with pytest.raises(ValueError, match=r"^activation must be one of smooth_abs, tanh, softplus, swish, or an"):
        as_activation("relu")
    with pytest.raises(TypeError, match=r"^activation must be a name or an Activation, got None"):
        as_activation(None)


def test_a_steeper_activation_leaves_less_to_the_weights():
    """The bound on the slope enters once for each of the two hidden layers."""
    steep = Activation("steep", lambda u: torch.sin(2 * u), lambda u: 2 * torch.cos(2 * u), slope_bound=2.0)
    net = IResNet(2, activation=steep, lipschitz=0.9, dtype=F64, generator=oracles.generator(0))
    norms = torch.stack([torch.linalg.matrix_norm(weight, 2) for weight in net.effective_weights()]).prod(dim=0)
    torch.testing.assert_close(4 * norms[0], net.block_bounds(), rtol=1e-12, atol=0)
    assert float(net.block_bounds().max()) <= 0.9
    x = 3 * oracles.randn(500, 2, seed=2)
    singular_values = torch.linalg.svdvals(net.forward_and_jacobian(x)[1])
    lower, upper = net.lipschitz_bounds()
    assert lower <= float(singular_values.detach().min())
    assert float(singular_values.detach().max()) <= upper


@pytest.mark.parametrize("make", [lambda **k: IResNet(2, **k), lambda **k: ConvIResNet((8,), channels=4, **k)])
def test_weights_that_are_too_large_come_down_to_the_limit(make):
    steep = Activation("steep", lambda u: torch.sin(2 * u), lambda u: 2 * torch.cos(2 * u), slope_bound=2.0)
    net = make(activation=steep, lipschitz=0.9, dtype=F64, generator=oracles.generator(0)).requires_grad_(False)
    for parameter in net.parameters():
        parameter.mul_(10)
    bounds = torch.stack([block.bound() for block in net.residual_blocks()])
    torch.testing.assert_close(bounds, torch.full_like(bounds, 0.9), rtol=1e-9, atol=0)


# The smooth absolute value


@pytest.mark.parametrize("sign", [-1, 1])
def test_huge_numbers_of_one_sign_alone_do_not_overflow(sign):
    u = sign * torch.tensor([1.0, 1e25])
    value, slope = smooth_abs(u)
    torch.testing.assert_close(value, torch.tensor([math.sqrt(1.25) - 0.5, 1e25]))
    assert float(slope[1]) == sign


@pytest.mark.parametrize("dtype", [F32, F64])
def test_activation_slope_never_exceeds_one(dtype):
    arguments = torch.cat([torch.linspace(-50, 50, 1_000_001), torch.logspace(-10, 15, 100_001)])
    _, slope = smooth_abs(arguments.to(dtype))
    assert slope.abs().max().item() <= 1


def test_activation_value_and_slope_agree_with_the_formula_and_its_derivative():
    u = torch.linspace(-30, 30, 2001, dtype=torch.float64)
    value, slope = smooth_abs(u)
    torch.testing.assert_close(value, oracles.activation(u), rtol=1e-13, atol=1e-15)
    derivative = torch.func.vmap(torch.func.grad(oracles.activation))(u)
    torch.testing.assert_close(slope, derivative, rtol=1e-12, atol=1e-14)
    step = 1e-5
    difference = (smooth_abs(u + step)[0] - smooth_abs(u - step)[0]) / (2 * step)
    torch.testing.assert_close(slope, difference, rtol=1e-8, atol=1e-9)


def test_activation_slope_is_what_autograd_derives_from_its_value_also_twice():
    """The carried Jacobian uses the slope, gradients of the value use autograd: they must be one function."""
    u = torch.linspace(-30, 30, 2001, dtype=torch.float64, requires_grad=True)
    value, slope = smooth_abs(u)
    (first,) = torch.autograd.grad(value.sum(), u, create_graph=True)
    torch.testing.assert_close(first, slope, rtol=1e-12, atol=1e-14)
    (second,) = torch.autograd.grad(slope.sum(), u)
    expected = torch.func.vmap(torch.func.grad(torch.func.grad(oracles.activation)))(u.detach())
    torch.testing.assert_close(second, expected, rtol=1e-9, atol=1e-12)


def test_activation_is_c1_its_slope_has_no_jump():
    """The second derivative is at most 2, at 0: neighbouring slopes differ by at most twice the step, nowhere more."""
    u = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    _, slope = smooth_abs(u)
    assert slope.diff().abs().max().item() <= 2e-4 * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("u", [-1e15, -1e4, -100.0, 0.0, 100.0, 1e4, 1e15])
def test_activation_of_extreme_arguments_and_its_gradient_are_finite_and_right(u, dtype):
    argument = torch.tensor(u, dtype=dtype, requires_grad=True)
    value, slope = smooth_abs(argument)
    (gradient,) = torch.autograd.grad(value, argument)
    assert value.item() == pytest.approx(oracles.activation(u), rel=1e-6, abs=1e-30)
    assert slope.item() == pytest.approx(np.sign(u), rel=2e-5, abs=1e-30)
    assert gradient.item() == pytest.approx(np.sign(u), rel=2e-5, abs=1e-30)
