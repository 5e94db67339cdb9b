"""Tests of `invlib.inverse`: true residuals, true error bounds and implicit gradients."""

import pickle

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

import invlib
from invlib import IResNet
from invlib.blocks import AffineBlock
from invlib.inverse import _image_size
from invlib.newton import _Coarse, _Points

LIPSCHITZ = [0.9, 0.97, 0.99]


def saturated(dim: int = 2, lipschitz: float = 0.99, seed: int = 1, **options: object) -> IResNet:
    """Steep blocks that use their whole Lipschitz budget."""
    net = oracles.random_network(dim, seed=seed, lipschitz=lipschitz, gain=5.0, **options)
    assert float(net.block_bounds().min()) > lipschitz * (1 - 3e-6)
    return net


# Accuracy


@pytest.mark.parametrize("lipschitz", LIPSCHITZ)
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_round_trip_of_saturated_blocks(dim, lipschitz):
    """x is known exactly: z = phi(x). The error is below the certified bound, the residual below the tolerance."""
    net = saturated(dim, lipschitz, blocks=5, width=16)
    x = 2 * oracles.randn(200, dim, seed=2)
    z = net(x).detach()
    solution = net.solve_inverse(z)
    scale = z.norm(dim=-1).clamp_min(1)
    assert bool(solution.converged.all())
    assert bool((solution.residual <= 1e-10 * scale).all())
    rounding = 1e-14 * scale / net.lipschitz_bounds()[0]
    assert bool(((solution.x - x).norm(dim=-1) <= solution.error_bound + rounding).all())
    assert float((solution.x - x).norm(dim=-1).max()) < 1e-6


@pytest.mark.parametrize("lipschitz", LIPSCHITZ)
@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6, 1e-10])
def test_reported_residual_is_the_true_one_and_meets_the_tolerance(lipschitz, tol):
    """The residual is evaluated anew by the plain network."""
    net = saturated(2, lipschitz)
    z = 3 * oracles.randn(100, 2, seed=3)
    solution = net.solve_inverse(z, tol=tol)
    parameters = list(net.parameters())
    again = torch.stack([oracles.plain_network(parameters, point, lipschitz) for point in solution.x]).detach()
    torch.testing.assert_close(solution.residual, (again - z).norm(dim=-1), rtol=1e-6, atol=1e-13)
    assert bool(solution.converged.all())
    assert bool((solution.residual <= tol * z.norm(dim=-1).clamp_min(1)).all())
    assert solution.tol == tol


def test_near_zero_the_tolerance_is_absolute():
    solution = saturated(2, 0.9).solve_inverse(torch.tensor([[0.0, 0.0], [1e-9, 0.0]], dtype=torch.float64), tol=1e-6)
    assert bool(solution.converged.all())


@pytest.mark.parametrize("lipschitz", LIPSCHITZ)
@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6])
def test_error_bound_holds_against_a_high_accuracy_solution(lipschitz, tol):
    net = saturated(2, lipschitz, seed=4)
    z = 3 * oracles.randn(300, 2, seed=5)
    loose, exact = net.solve_inverse(z, tol=tol), net.solve_inverse(z, tol=1e-13)
    distance = (loose.x - exact.x).norm(dim=-1)
    assert bool((distance <= loose.error_bound + exact.error_bound).all())
    rounding = 1e-13 * float(z.norm(dim=-1).max()) / net.lipschitz_bounds()[0]  # no sharper than that, but no cruder
    torch.testing.assert_close(loose.error_bound, loose.residual / net.lipschitz_bounds()[0], rtol=1e-6, atol=rounding)
    assert float(loose.residual.max()) > 1e-12  # the loose tolerance has left something to bound


@pytest.mark.parametrize("lipschitz", LIPSCHITZ)
def test_inverse_in_1d_equals_a_bracketing_root_finder(lipschitz):
    """phi is increasing in 1-D; scipy's brentq on the plain network."""
    net = saturated(1, lipschitz, seed=6)
    parameters = [p.detach() for p in net.parameters()]

    def phi(x: float) -> float:
        return float(oracles.plain_network(parameters, torch.tensor([x], dtype=torch.float64), lipschitz))

    z = torch.tensor([[-4.0], [-0.3], [0.0], [1.7], [6.0]], dtype=torch.float64)
    radius = 10.0
    while min(-phi(-radius), phi(radius)) < 6:
        radius *= 2
    expected = [optimize.brentq(lambda x, t=t: phi(x) - t, -radius, radius, xtol=1e-13) for t in z[:, 0].tolist()]
    np.testing.assert_allclose(net.inverse(z).detach().numpy()[:, 0], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("lipschitz", LIPSCHITZ)
def test_error_bound_is_certain_down_to_the_last_bit(lipschitz):
    """Against bisection in 80-bit arithmetic: rounding of the residual itself must be part of the bound."""
    net = saturated(1, lipschitz, seed=32, blocks=4)
    weights = [weight.detach().numpy()[0].astype(np.longdouble) for weight in net.effective_weights()]
    biases = [bias.detach().numpy()[0].reshape(4, -1).astype(np.longdouble) for bias in net.biases]

    def phi(x: np.ndarray) -> np.ndarray:
        for k in range(net.depth):
            hidden = oracles.activation(x @ weights[0][k].T + biases[0][k])
            hidden = oracles.activation(hidden @ weights[1][k].T + biases[1][k])
            x = x + hidden @ weights[2][k].T + biases[2][k]
        return x

    z = 3 * oracles.randn(200, 1, seed=33)
    solution = net.solve_inverse(z)
    below = solution.x.numpy().astype(np.longdouble) - np.longdouble(1e-3)
    above = below + np.longdouble(2e-3)
    target = z.numpy().astype(np.longdouble)
    assert bool((phi(below) < target).all())
    assert bool((phi(above) > target).all())
    for _ in range(70):
        middle = (below + above) / 2
        low = phi(middle) < target
        below, above = np.where(low, middle, below), np.where(low, above, middle)
    distance = np.abs(solution.x.numpy() - below).astype(np.float64)[:, 0]
    assert bool((distance <= solution.error_bound.numpy()).all())


def test_inverse_equals_the_banach_iteration_of_each_block():
    """Fixed-point iteration x <- z - f(x) through the blocks, run to stagnation at L = 0.7."""
    net = oracles.random_network(3, seed=7, lipschitz=0.7, gain=3.0, blocks=2)
    z = oracles.randn(50, 3, seed=8)
    x = z
    with torch.no_grad():
        weights = net.effective_weights()
        for k in reversed(range(2)):
            first, second, third = (weight[0, k] for weight in weights)
            target = x
            for _ in range(150):  # 0.7**150 < 1e-23
                hidden = oracles.activation(x @ first.T + net.biases[0][0, k].reshape(-1))
                hidden = oracles.activation(hidden @ second.T + net.biases[1][0, k].reshape(-1))
                x = target - hidden @ third.T - net.biases[2][0, k].reshape(-1)
    torch.testing.assert_close(net.inverse(z).detach(), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lipschitz", LIPSCHITZ)
@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_far_away_data_are_inverted_to_the_relative_tolerance(lipschitz, scale):
    net = saturated(2, lipschitz, seed=9)
    z = oracles.randn(50, 2, seed=10)
    z = scale * z / z.norm(dim=-1, keepdim=True)
    solution = net.solve_inverse(z)
    assert bool(solution.converged.all())
    with torch.no_grad():
        assert bool(((net(solution.x) - z).norm(dim=-1) <= 1.01e-10 * scale).all())


@pytest.mark.parametrize("size", [1e20, 1e30, 1e38])
def test_huge_data_in_single_precision_are_inverted_in_double_precision(size):
    """Their squares overflow: they must neither become nan nor be called converged where they are not."""
    net = oracles.random_network(2, seed=90, dtype=torch.float32, gain=0.5)
    x = size / 100 * oracles.randn(20, 2, seed=91, dtype=torch.float32)
    z = net(x).detach()
    assert bool(torch.isfinite(z).all())
    solution = net.solve_inverse(z)
    assert bool(solution.converged.all())
    found = net.inverse(z)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach(), x, rtol=1e-4, atol=1e-5 * size / 100)
    (gradient,) = torch.autograd.grad(net.inverse(z.requires_grad_())[:, 0].sum(), z)
    jacobian = net.forward_and_jacobian(x)[1].detach()
    torch.testing.assert_close(gradient, torch.linalg.inv(jacobian)[:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [1e20, 1e100, 1e149])
def test_huge_data_in_double_precision_are_inverted_by_newtons_method_too(size):
    """Directions in single precision would be infinite; the fixed-point step alone would need many iterations."""
    net = saturated(2, 0.97)
    z = size * oracles.randn(20, 2, seed=92).clamp(-1, 1)
    solution = net.solve_inverse(z)
    assert bool(solution.converged.all())
    assert int(solution.iterations.max()) <= 10 * net.depth
    parameters = [p.detach() for p in net.parameters()]
    again = torch.stack([oracles.plain_network(parameters, p, net.lipschitz) for p in solution.x / size * size])
    assert float(((again - z) / size).abs().max()) < 1e-9


def test_data_whose_squares_leave_the_range_are_refused_by_name():
    net = saturated(2, 0.9)
    with pytest.raises(ValueError, match=r"^z must not exceed 1e\+150 in size, got 1e\+151"):
        net.inverse(torch.full((3, 2), 1e151, dtype=torch.float64))


def test_a_solution_beyond_the_range_of_single_precision_is_an_error():
    """z / 1e-30 = 1e50: infinite in float32, and fine in float64."""
    net = IResNet(2, output_operator=1e-30 * torch.eye(2, dtype=torch.float64), generator=oracles.generator(0))
    z = torch.full((3, 2), 1e20)
    with pytest.raises(
        invlib.InversionError, match=r"^the solution, of size .*e\+\d+, exceeds the range of torch.float32"
    ):
        net.inverse(z)
    assert bool(torch.isfinite(net.inverse(z.double())).all())


def test_an_inversion_error_survives_pickle():
    net = saturated(2, 0.97)
    with pytest.raises(invlib.InversionError) as error:
        net.inverse(5 * oracles.randn(6, 2, seed=20), tol=1e-30)
    again = pickle.loads(pickle.dumps(error.value))
    assert type(again) is invlib.InversionError
    assert str(again) == str(error.value)
    assert torch.equal(again.solution.x, error.value.solution.x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_guess_may_have_another_dtype(dtype):
    net = saturated(2, 0.9)
    x = oracles.randn(20, 2, seed=93)
    z = net(x).detach()
    torch.testing.assert_close(net.inverse(z, guess=x.to(dtype)), x, rtol=1e-8, atol=1e-8)
    assert not net.solve_inverse(z, guess=x).iterations.any()


@pytest.mark.parametrize("members", [1, 3])
def test_members_are_inverted_as_their_single_networks(members):
    net = saturated(2, 0.97, members=members)
    z = 3 * oracles.randn(members, 40, 2, seed=11)
    solution = net.solve_inverse(z)
    lower = net.lipschitz_bounds()[0]
    for e in range(members):
        single = oracles.member(net, e)
        torch.testing.assert_close(solution.x[e], single.inverse(z[e]).detach(), rtol=1e-6, atol=1e-7)
        bound = single.solve_inverse(z[e]).error_bound
        torch.testing.assert_close(solution.error_bound[e], bound, rtol=1e-6, atol=1e-12 / float(lower[e]))
    assert bool(solution.converged.all())


def test_members_of_very_different_difficulty_are_all_converged():
    """One member near the identity, one at the limit: points leave when the last member has converged."""
    net = saturated(2, 0.99, members=2)
    with torch.no_grad():
        for weight in net.weights:
            weight[0] *= 1e-3
    z = 5 * oracles.randn(2, 100, 2, seed=12)
    solution = net.solve_inverse(z)
    assert bool(solution.converged.all())
    assert int(solution.iterations[0].max()) <= int(solution.iterations[1].max())


@pytest.mark.parametrize("members", [None, 3])
def test_on_smooth_blocks_newton_steps_count_from_the_first_one(members):
    """Ten digits in at most five iterations a block: there is no time for a halved or a lost step."""
    net = oracles.random_network(2, seed=20, members=members)
    z = oracles.randn(*((members,) if members else ()), 300, 2, seed=21)
    assert int(net.solve_inverse(z, tol=1e-10).iterations.max()) <= 5 * net.depth


def test_starting_near_the_solution_saves_iterations_and_changes_nothing_else():
    net = saturated(2, 0.99, blocks=4)
    x = 2 * oracles.randn(200, 2, seed=13)
    z = net(x).detach()
    cold, warm = net.solve_inverse(z), net.solve_inverse(z, guess=x + 1e-4)
    exact = net.solve_inverse(z, guess=x)
    assert bool(warm.converged.all())
    assert int(exact.iterations.sum()) == 0  # already there
    assert int(warm.iterations.sum()) < int(cold.iterations.sum())
    rounding = 1e-14 * z.norm(dim=-1).clamp_min(1) / net.lipschitz_bounds()[0]
    assert bool(((warm.x - cold.x).norm(dim=-1) <= warm.error_bound + cold.error_bound + rounding).all())
    torch.testing.assert_close(net.inverse(z, guess=x + 1e-4), net.inverse(z), rtol=1e-6, atol=1e-7)


def test_a_misleading_start_is_only_slower():
    net = saturated(2, 0.99)
    z = oracles.randn(50, 2, seed=14)
    solution = net.solve_inverse(z, guess=1e4 * oracles.randn(50, 2, seed=15))
    assert bool(solution.converged.all())


@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 2), (0,)])
def test_leading_dimensions_are_kept(shape):
    net = saturated(3, 0.9)
    z = oracles.randn(*shape, 3, seed=16)
    x, solution = net.inverse(z), net.solve_inverse(z)
    assert x.shape == solution.x.shape == (*shape, 3)
    for scalar in (solution.residual, solution.iterations, solution.converged, solution.error_bound):
        assert scalar.shape == shape
    torch.testing.assert_close(net(x), z, rtol=1e-9, atol=1e-9)


def test_leading_dimensions_are_kept_with_members():
    net = saturated(3, 0.9, members=2)
    z = oracles.randn(2, 3, 4, 3, seed=17)
    solution = net.solve_inverse(z)
    assert solution.x.shape == z.shape
    assert solution.error_bound.shape == (2, 3, 4)
    torch.testing.assert_close(net(net.inverse(z)), z, rtol=1e-9, atol=1e-9)


def test_inverse_of_a_float32_network_is_solved_in_float64_and_rounded_once():
    """The tolerance 1e-10 is reached for the float32 weights; the result is within rounding of that solution."""
    net = saturated(2, 0.97, dtype=torch.float32)
    z = 2 * oracles.randn(100, 2, seed=18, dtype=torch.float32)
    solution = net.solve_inverse(z)
    assert solution.x.dtype == torch.float64
    assert bool(solution.converged.all())
    with torch.no_grad():
        x = net.inverse(z)
    assert x.dtype == torch.float32
    assert torch.equal(x, solution.x.float())
    attached = net.inverse(z)  # one float32 Newton step more: its rounding error, through the inverse Jacobian
    assert attached.dtype == torch.float32
    stretch = torch.linalg.matrix_norm(torch.linalg.inv(net.forward_and_jacobian(x)[1].detach()), 2)
    size = (x.abs().amax(-1) + z.abs().amax(-1)).clamp_min(1)
    assert bool(((attached.detach() - x).norm(dim=-1) <= 30 * torch.finfo(torch.float32).eps * stretch * size).all())


# Failures


def test_too_few_iterations_are_reported_and_raise_with_the_solution_attached():
    net = saturated(2, 0.99)
    z = 5 * oracles.randn(60, 2, seed=19)
    solution = net.solve_inverse(z, max_iterations=1)
    assert not bool(solution.converged.all())
    failed = int((~solution.converged).sum())
    assert torch.equal(solution.converged, solution.residual <= 1e-10 * z.norm(dim=-1).clamp_min(1))
    assert int(solution.iterations.max()) == net.depth  # one for each block
    with pytest.raises(invlib.InversionError, match=f"{failed} of 60 points missed the tolerance 1e-10") as error:
        solution.raise_unless_converged()
    assert error.value.solution is solution
    exact = net.solve_inverse(z, tol=1e-13)  # what it reports about the failure is true as well
    distance = (solution.x - exact.x).norm(dim=-1)
    assert bool((distance <= solution.error_bound + exact.error_bound).all())


def test_a_tolerance_below_rounding_stops_and_raises_with_the_best_solution_attached():
    net = saturated(2, 0.97)
    z = 5 * oracles.randn(60, 2, seed=20)
    with pytest.raises(invlib.InversionError, match="missed the tolerance 1e-30") as error:
        net.inverse(z, tol=1e-30)
    solution = error.value.solution
    assert not bool(solution.converged.all())
    assert float(solution.residual.max()) < 1e-11  # as good as float64 allows
    assert bool((solution.error_bound >= solution.residual / (1 - net.lipschitz) ** net.depth).all())


def test_a_converged_solution_does_not_raise():
    saturated(2, 0.9).solve_inverse(oracles.randn(5, 2, seed=21)).raise_unless_converged()


# Gradients


@pytest.mark.parametrize("lipschitz", [0.9, 0.97])
@pytest.mark.parametrize("near", [False, True])
def test_gradient_in_z_is_the_inverse_jacobian_at_x(lipschitz, near):
    net = saturated(2, lipschitz)
    x = oracles.randn(20, 2, seed=22)
    z = net(x).detach().requires_grad_()
    solution = net.inverse(z, guess=x if near else None)
    factors = oracles.randn(20, 2, seed=23)
    (gradient,) = torch.autograd.grad((factors * solution).sum(), z)
    jacobian = oracles.plain_jacobians(net, x)
    torch.testing.assert_close(gradient, torch.linalg.solve(jacobian.mT, factors), rtol=1e-6, atol=1e-7)


def test_gradient_in_the_parameters_is_the_implicit_formula():
    """-v* [D phi]^{-1} d phi / d theta, with the last factor from torch.func on the plain network."""
    net = saturated(2, 0.9)
    x, factors = oracles.randn(20, 2, seed=24), oracles.randn(20, 2, seed=25)
    z = net(x).detach()
    parameters = tuple(p.detach() for p in net.parameters())
    gradients = torch.autograd.grad((factors * net.inverse(z)).sum(), list(net.parameters()))
    pulled = torch.linalg.solve(oracles.plain_jacobians(net, x).mT, factors)

    def phi(theta: tuple) -> Tensor:
        return torch.func.vmap(lambda point: oracles.plain_network(theta, point, net.lipschitz))(x)

    (expected,) = torch.func.vjp(phi, parameters)[1](-pulled)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("members", [None, 2])
def test_gradients_in_z_and_parameters_equal_finite_differences(members):
    net = saturated(2, 0.9, members=members)
    shape = (10, 2) if members is None else (members, 10, 2)
    z, factors = oracles.randn(*shape, seed=26).requires_grad_(), oracles.randn(*shape, seed=27)

    def loss() -> Tensor:
        return (factors * net.inverse(z, tol=1e-13)).square().sum()

    leaves = [z, *net.parameters()]
    gradients = torch.autograd.grad(loss(), leaves)
    for index, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        direction = oracles.randn(*leaf.shape, seed=28 + index)
        slope = float(oracles.directional_difference(loss, leaf, direction, 1e-6))
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_the_attached_step_makes_the_value_second_order_accurate():
    """The attached Newton step corrects the value too: at tol = 1e-4 the returned point is far better than that."""
    net = saturated(2, 0.9)
    x = oracles.randn(100, 2, seed=29)
    z = net(x).detach()
    loose = net.solve_inverse(z, tol=1e-4).x
    attached = net.inverse(z, tol=1e-4).detach()
    assert float((attached - x).norm(dim=-1).max()) < 0.01 * float((loose - x).norm(dim=-1).max())


def test_nothing_is_recorded_where_no_gradient_is_needed():
    net, z = saturated(2, 0.9), oracles.randn(5, 2, seed=30)
    with torch.no_grad():
        assert not net.inverse(z).requires_grad
    assert net.inverse(z).requires_grad
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    assert not net.inverse(z).requires_grad
    assert net.inverse(z.requires_grad_()).requires_grad


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("outer", ["parameters", "z"])
@pytest.mark.parametrize("backward", [False, True])
def test_second_derivatives_raise_instead_of_being_wrong(power, outer, backward):
    """For a loss linear in the inverse (its gradient is a constant) as for any other; by grad() or backward()."""
    net = saturated(2, 0.9)
    z = oracles.randn(5, 2, seed=31).requires_grad_()
    leaves = list(net.parameters()) if outer == "parameters" else [z]

    def second_derivative() -> None:
        x = net.inverse(z)
        loss = x.sum() if power == 1 else x.square().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        total = sum(gradient.sum() for gradient in first)
        if backward:
            total.backward()
        else:
            torch.autograd.grad(total, leaves, allow_unused=True)

    with pytest.raises(RuntimeError):
        second_derivative()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    dim=st.integers(1, 5),
    blocks=st.integers(1, 4),
    width=st.integers(1, 12),
    members=st.none() | st.integers(1, 3),
    lipschitz=st.floats(0.1, 0.99),
    gain=st.floats(0.1, 20.0),
    log_scale=st.floats(-3, 5),
    seed=st.integers(0, 2**31 - 2),
)
def test_property_inversion_round_trip(dim, blocks, width, members, lipschitz, gain, log_scale, seed):
    """phi(phi^{-1}(z)) = z to the tolerance, and phi^{-1}(phi(x)) = x to the certified error bound."""
    net = oracles.random_network(
        dim, blocks=blocks, width=width, members=members, lipschitz=lipschitz, gain=gain, seed=seed
    )
    x = 10**log_scale * oracles.randn(*([] if members is None else [members]), 6, dim, seed=seed)
    with torch.no_grad():
        z = net(x)
        solution = net.solve_inverse(z)
        assert bool(solution.converged.all())
        scale = z.norm(dim=-1).clamp_min(1)
        assert bool(((net(solution.x) - z).norm(dim=-1) <= 1.001e-10 * scale).all())
        lower = torch.as_tensor(net.lipschitz_bounds()[0]).reshape(-1, *[1] * (scale.ndim - 1))
        rounding = 1e-14 * scale / lower.reshape(lower.shape if members else ())
    assert bool(((solution.x - x).norm(dim=-1) <= solution.error_bound + rounding).all())


def test_the_solver_stops_where_rounding_leaves_nothing_to_gain_and_the_failure_is_reported():
    """Biases of 1e8 leave a residual above 1e-11 whatever is done: few iterations, and an error."""
    net = oracles.random_network(2, seed=80, gain=0.1)
    with torch.no_grad():
        net.biases[0].fill_(1e8)
    z = 3 * oracles.randn(30, 2, seed=81)
    solution = net.solve_inverse(z, tol=1e-13, max_iterations=200)
    assert not solution.converged.all()
    assert 1e-11 < float(solution.residual.max()) < 1e-6
    assert int(solution.iterations.max()) < 25 * net.depth
    with pytest.raises(invlib.InversionError):
        net.inverse(z, tol=1e-13)


def test_the_rounding_of_an_affine_block_grows_with_its_shift():
    """For the error bound: |M x| is at most 2 |x|, and the shift has the length 5."""
    block = AffineBlock(torch.diag(torch.tensor([2.0, 1.0]))[None], torch.tensor([[[3.0, 4.0]]]))
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    torch.testing.assert_close(_image_size([block], x), torch.tensor([[7.0, 9.0]]))


@pytest.mark.parametrize(("size", "dtype"), [(1.0, torch.float32), (1e16, torch.float64)])
def test_huge_numbers_are_not_rounded_to_single_precision(size, dtype):
    z = torch.full((1, 1, 2), size, dtype=torch.float64)
    length = z.norm(dim=-1)
    points = _Points(x=0 * z, z=z, residual=z, direction=z, length=length, tol=length, size=length)
    assert _Coarse(IResNet(2, dtype=torch.float64).residual_blocks()[0], points).dtype == dtype
