"""The contracts of a network and of a block, each tested on everything that claims to meet it."""

import copy
import itertools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import execute
import oracles
import pytest
import torch
from torch import Tensor, nn

import invlib
from invlib import ConvIResNet, IResNet, LinearProblem, linalg, networks
from invlib.activations import ACTIVATIONS, Activation
from invlib.blocks import AffineBlock, Block, ResidualBlock
from invlib.coupling import CouplingFlow
from invlib.dense import DenseBlock
from invlib.errors import DifferentiatedTwiceError
from invlib.residual import ResidualNetwork, shrink

F32, F64 = torch.float32, torch.float64
SINE = Activation("sine", torch.sin, torch.cos, slope_bound=1.0)
MATRIX = torch.tensor([[1.2, 0.3, 0.0], [-0.4, 0.8, 0.1], [0.0, 0.2, 1.1]], dtype=F64)


class BareModule(nn.Module):
    """sinh(M x) + b: nothing but a forward and an inverse."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(3) + 0.1 * oracles.randn(3, 3, seed=seed, dtype=F32))
        self.shift = nn.Parameter(oracles.randn(3, seed=seed + 1, dtype=F32))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sinh(x @ self.matrix.mT) + self.shift

    def inverse(self, z: Tensor) -> Tensor:
        return torch.asinh(z - self.shift) @ torch.linalg.inv(self.matrix).mT


class SineBlock(ResidualBlock):
    """x + sin(W x): what the contract of a block asks for, and nothing else."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def value(self, x: Tensor) -> Tensor:
        return x + torch.sin(x @ self.weight.mT)

    def bound(self) -> Tensor:
        return linalg.spectral_norm(self.weight)


class SineNetwork(ResidualNetwork):
    """A network of blocks of one's own."""

    def __init__(self, dim: int, members: int | None, seed: int) -> None:
        super().__init__(dim, members=members, lipschitz=0.8)
        self.weight = nn.Parameter(oracles.randn(members or 1, 2, dim, dim, seed=seed, dtype=F32))

    def residual_blocks(self) -> list[ResidualBlock]:
        weight = shrink(self.weight, linalg.spectral_norm(self.weight), self.lipschitz)
        return [SineBlock(w) for w in weight.unbind(1)]


@dataclass(frozen=True)
class Case:
    """A way to build a network from a seed, in single precision."""

    build: Callable[[int], nn.Module]
    dim: int
    members: int | None = None
    estimates: bool = False
    mixes_dtypes: bool = True

    def net(self, dtype: torch.dtype = F64, seed: int = 1) -> nn.Module:
        return self.build(seed).to(dtype)

    def points(self, *shape: int, seed: int = 2, dtype: torch.dtype = F64) -> Tensor:
        members = () if self.members is None else (self.members,)
        return oracles.randn(*members, *shape, self.dim, seed=seed, dtype=dtype)


def dense(dim: int, **options: object) -> Callable[[int], IResNet]:
    options = {"blocks": 2, "width": 6, "lipschitz": 0.9, "dtype": F32, **options}
    return lambda seed: IResNet(dim, generator=oracles.generator(seed), **options)


def for_problem(dim: int, **options: object) -> Callable[[int], IResNet]:
    """Problem and prior depend on the seed: so the fixed layers must come with the state."""
    options = {"blocks": 2, "width": 6, "lipschitz": 0.9, "dtype": F32, **options}

    def build(seed: int) -> IResNet:
        problem = LinearProblem(oracles.random_operator(dim, dim, seed=seed), 0.5)
        prior = oracles.random_mixture(dim, 2, seed=seed)
        net = IResNet.for_problem(problem, prior, generator=oracles.generator(seed), **options)
        with torch.no_grad():  # away from the start
            net.weights[-1].mul_(10)
        return net

    return build


def convolutional(shape: tuple[int, ...], **options: object) -> Callable[[int], ConvIResNet]:
    return lambda seed: ConvIResNet(shape, blocks=2, channels=4, generator=oracles.generator(seed), **options)


def coupling(dim: int) -> Callable[[int], CouplingFlow]:
    def build(seed: int) -> CouplingFlow:
        net = CouplingFlow(dim, layers=3, width=8, generator=oracles.generator(seed))
        with torch.no_grad():  # away from the identity
            for index, layer in enumerate(net.layers):
                layer.last.weight.copy_(0.3 * oracles.randn(*layer.last.weight.shape, seed=seed + index))
        return net

    return build


# One line makes a network take part in everything below.
NETWORKS = {
    **{name: Case(dense(2, activation=name), 2) for name in ACTIVATIONS},
    "activation of one's own": Case(dense(2, activation=SINE), 2),
    "one dimension": Case(dense(1), 1),
    "members": Case(dense(2, members=3), 2, members=3),
    "one member": Case(dense(2, members=1), 2, members=1),
    "low rank": Case(dense(5, width=2), 5),
    "low rank, members, tanh": Case(dense(5, width=2, members=2, activation="tanh"), 5, members=2),
    "output operator": Case(dense(3, output_operator=MATRIX), 3),
    "output operator, members": Case(dense(3, members=2, output_operator=MATRIX), 3, members=2),
    "for a problem": Case(for_problem(3), 3),
    "for a problem, low rank, members": Case(for_problem(5, width=2, members=2), 5, members=2),
    "for a problem, estimates": Case(for_problem(3, exact=False, lipschitz=0.4), 3, estimates=True),
    "estimates": Case(dense(3, exact=False, lipschitz=0.4), 3, estimates=True),
    "estimates, members": Case(dense(3, exact=False, lipschitz=0.4, members=2), 3, members=2, estimates=True),
    "estimates, low rank, output operator": Case(
        dense(3, exact=False, lipschitz=0.4, width=2, output_operator=MATRIX), 3, estimates=True
    ),
    "coupling flow": Case(coupling(2), 2),
    "coupling flow in five dimensions": Case(coupling(5), 5),
    "convolutions on a circle": Case(convolutional((6,)), 6),
    "convolutions with edges, members": Case(convolutional((5,), edges="reflecting", members=3), 5, members=3),
    "convolutions in the plane, estimates": Case(convolutional((3, 2), exact=False, lipschitz=0.4), 6, estimates=True),
    "bare module": Case(BareModule, 3, mixes_dtypes=False),
    "blocks of one's own": Case(lambda seed: SineNetwork(3, None, seed), 3),
    "blocks of one's own, members": Case(lambda seed: SineNetwork(3, 2, seed), 3, members=2),
}

LOSSES: dict[str, Callable[..., Tensor]] = {
    "approximation": invlib.approximation_loss,
    "reconstruction": invlib.reconstruction_loss,
    "log_det": lambda net, x, z, **options: invlib.log_det_loss(net, x, z, 0.3, **options),
    "divergence": lambda net, x, z, **options: invlib.divergence_loss(net, x, z, 0.3, **options),
}

every_network = pytest.mark.parametrize("case", NETWORKS.values(), ids=NETWORKS)
every_loss = pytest.mark.parametrize("loss", LOSSES)


def reverse_mode_jacobians(net: nn.Module, x: Tensor, members: int | None) -> Tensor:
    """D phi, (..., B, n, n), point by point, by torch.func.jacrev."""
    if members is None:
        flat = x.reshape(-1, x.shape[-1])
        return torch.stack([torch.func.jacrev(net)(point) for point in flat]).reshape(*x.shape, x.shape[-1])
    columns = []
    for point in x.unbind(1):  # (E, n): one point of each member
        full = torch.func.jacrev(net)(point)
        columns.append(torch.stack([full[e, :, e] for e in range(members)]))
    return torch.stack(columns, dim=1)


def positive_definite(dim: int, seed: int) -> Tensor:
    factor = oracles.random_operator(dim, dim, seed=seed)
    return factor @ factor.T


def metrics(case: Case) -> list[Tensor | None]:
    shared = positive_definite(case.dim, seed=5)
    if case.members is None:
        return [None, shared]
    return [None, shared, torch.stack([positive_definite(case.dim, seed=6 + e) for e in range(case.members)])]


# Networks


@every_network
def test_the_inverse_is_the_inverse(case):
    net, x = case.net(), case.points(20)
    with torch.no_grad():
        torch.testing.assert_close(net.inverse(net(x)), x, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(net(net.inverse(x)), x, rtol=1e-8, atol=1e-8)


@every_network
def test_the_jacobian_is_that_of_reverse_mode(case):
    net, x = case.net(), case.points(4)
    value, jacobian = networks.forward_and_jacobian(net, x)
    torch.testing.assert_close(value, net(x), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(jacobian, reverse_mode_jacobians(net, x, case.members), rtol=1e-10, atol=1e-11)


@every_network
def test_the_derived_jacobian_is_the_networks_own(case):
    """What `networks` would derive, if the network had no method of its own; also its gradient in the parameters."""
    net, x = case.net(), case.points(4)
    factors = oracles.randn(*x.shape, case.dim, seed=3)
    own, derived = networks.forward_and_jacobian(net, x)[1], networks._derived_jacobian(net, x)[1]
    torch.testing.assert_close(own, derived, rtol=1e-10, atol=1e-11)
    parameters = list(net.parameters())
    gradients = [
        torch.autograd.grad((factors * jacobian).sum(), parameters, allow_unused=True) for jacobian in (own, derived)
    ]
    for ours, theirs, parameter in zip(*gradients, parameters, strict=True):
        zero = torch.zeros_like(parameter)
        ours, theirs = (zero if g is None else g for g in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@every_network
def test_the_log_determinant_is_that_of_the_jacobian(case):
    """Where it is estimated: on average over all signs, up to the bias that the network states."""
    net, x = case.net(), case.points(4)
    expected = torch.linalg.slogdet(reverse_mode_jacobians(net, x, case.members)).logabsdet.detach()
    if not case.estimates:
        value, log_det = networks.forward_and_log_det(net, x)
        torch.testing.assert_close(value, net(x), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(log_det, expected, rtol=1e-9, atol=1e-10)
        return
    with oracles.every_sign(case.dim):
        _, log_det = networks.forward_and_log_det(net, oracles.for_every_sign(x))
    bias = torch.as_tensor(net.estimate_log_det(x)[1].bias_bound).max()
    mean = oracles.mean_over_signs(log_det, case.dim).detach()
    assert float((mean - expected).abs().max()) <= float(bias) + 1e-12
    assert float(bias) < 1e-7


@every_network
def test_the_divergence_is_the_trace_of_the_jacobian_in_every_metric(case):
    """Where it is estimated: on average over all signs, without a bias."""
    net, x = case.net(), case.points(4)
    jacobians = reverse_mode_jacobians(net, x, case.members)
    for metric in metrics(case):
        weight = torch.eye(case.dim, dtype=F64) if metric is None else metric
        weight = weight if weight.ndim == 2 else weight.unsqueeze(1)
        expected = (weight @ jacobians).diagonal(dim1=-2, dim2=-1).sum(-1)
        if not case.estimates:
            _, divergence = networks.forward_and_divergence(net, x, metric=metric)
        else:
            with oracles.every_sign(case.dim):
                _, divergence = networks.forward_and_divergence(net, oracles.for_every_sign(x), metric=metric)
            divergence = oracles.mean_over_signs(divergence, case.dim)
        torch.testing.assert_close(divergence, expected, rtol=1e-10, atol=1e-11)


@every_network
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (2, 0)])
def test_leading_axes_are_kept(case, shape):
    net, x = case.net(), case.points(*shape)
    metric = positive_definite(case.dim, seed=7)
    value, jacobian = networks.forward_and_jacobian(net, x)
    _, log_det = networks.forward_and_log_det(net, x)
    divergences = [networks.forward_and_divergence(net, x, metric=each)[1] for each in (None, metric)]
    assert net(x).shape == value.shape == net.inverse(x).shape == x.shape
    assert jacobian.shape == (*x.shape, case.dim)
    assert {log_det.shape, *(each.shape for each in divergences)} == {x.shape[:-1]}
    if x.numel() and not case.estimates:
        members = () if case.members is None else (case.members,)
        flat = x.reshape(*members, -1, case.dim)
        together = (net(flat), networks.forward_and_divergence(net, flat, metric=metric)[1])
        torch.testing.assert_close(value.reshape(flat.shape), together[0], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(divergences[1].reshape(flat.shape[:-1]), together[1], rtol=1e-11, atol=1e-12)


@every_network
@pytest.mark.parametrize("shape", [(4,), (2, 4)])
def test_each_batch_or_member_may_have_a_metric(case, shape):
    """Metrics (G, n, n) for points (G, B, n) of a single network, and (E, n, n) for points (E, ..., n) of members."""
    if case.members is None:
        shape = (3, *shape[1:])
    net, x = case.net(), case.points(*shape) if case.members else case.points(*shape, 4)
    count = case.members or (3 if len(shape) == 1 else shape[0])
    metric = torch.stack([positive_definite(case.dim, seed=8 + e) for e in range(count)])
    if case.members is None and len(shape) == 2:
        metric = metric.unsqueeze(1).expand(*shape, case.dim, case.dim)
    if case.estimates:
        with oracles.every_sign(case.dim):
            repeated = oracles.for_every_sign(x)
            divergence = networks.forward_and_divergence(net, repeated, metric=metric)[1]
        divergence = oracles.mean_over_signs(divergence, case.dim)
    else:
        divergence = networks.forward_and_divergence(net, x, metric=metric)[1]
    jacobian = networks.forward_and_jacobian(net, x)[1]
    for e in range(count):
        weight = metric[e] if metric.ndim == 3 else metric[e, 0]
        expected = (weight @ jacobian[e]).diagonal(dim1=-2, dim2=-1).sum(-1)
        torch.testing.assert_close(divergence[e], expected, rtol=1e-10, atol=1e-11)


@every_network
@pytest.mark.parametrize(("points", "parameters"), [(F64, F32), (F32, F64), (F32, F32)])
def test_results_have_the_dtype_of_the_points(case, points, parameters):
    if not case.mixes_dtypes and points != parameters:
        pytest.skip("this network leaves it to torch to refuse mixed dtypes")
    net, x = case.net(parameters), case.points(6, dtype=points)
    results = [
        net(x),
        *networks.forward_and_jacobian(net, x),
        *networks.forward_and_log_det(net, x),
        *networks.forward_and_divergence(net, x),
        net.inverse(x),
    ]
    assert {result.dtype for result in results} == {points}
    exact = case.net(parameters).double()
    tolerance = 2e-5  # single precision, through a few layers
    torch.testing.assert_close(net(x).double(), exact(x.double()), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(net(net.inverse(x)), x, rtol=1e-4, atol=1e-4)
    if points == F64:  # not only its name: the points are not rounded to single precision on the way
        torch.testing.assert_close(net(net.inverse(x)), x, rtol=1e-9, atol=1e-9)


@every_network
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_loss
def test_half_precision_is_refused_by_name(case, dtype, loss):
    net, x = case.net(F32), case.points(4).to(dtype)
    with pytest.raises(ValueError, match=rf"^x must have a floating-point dtype, float32 or float64, got {dtype}"):
        LOSSES[loss](net, x, x)
    for method in (networks.forward_and_jacobian, networks.forward_and_log_det, networks.forward_and_divergence):
        if case.mixes_dtypes or method is not networks.forward_and_log_det:
            with pytest.raises(ValueError, match=r"^x must have a floating-point dtype"):
                method(net, x)


@every_network
@every_loss
def test_the_gradient_of_a_loss_reaches_every_parameter(case, loss):
    net, x, z = case.net(), case.points(8), case.points(8, seed=4)
    value = LOSSES[loss](net, x, z)
    assert value.shape == (() if case.members is None else (case.members,))
    value.sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool(parameter.grad.any()), name


@every_network
@every_loss
def test_five_steps_of_adam_lower_a_loss(case, loss):
    net, x = case.net(), case.points(32)
    z = 1.3 * x + 0.2
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    options = {"generator": oracles.generator(9)} if loss in ("log_det", "divergence") else {}
    values = []
    for _ in range(6):
        value = LOSSES[loss](net, x, z, **options)
        values.append(value.detach())
        optimizer.zero_grad()
        value.sum().backward()
        optimizer.step()
    assert bool((values[5] < values[0]).all()), values


@every_network
@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_file_pickle_and_copies_reproduce_the_map_bit_for_bit(case, dtype, tmp_path):
    net, x = case.net(dtype), case.points(5, dtype=dtype)
    torch.save(net.state_dict(), tmp_path / "state.pt")
    loaded = case.net(dtype, seed=50)
    assert not torch.equal(loaded(x), net(x))
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.save(net, tmp_path / "net.pt")
    whole = torch.load(tmp_path / "net.pt", weights_only=False)
    for other in (loaded, whole, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), net(x))
        assert torch.equal(other.inverse(x), net.inverse(x))
        ours, theirs = (networks.forward_and_jacobian(each, x)[1] for each in (other, net))
        assert torch.equal(ours, theirs)


@every_network
def test_a_change_of_dtype_and_back_changes_nothing(case):
    net, x = case.net(F32), case.points(5, dtype=F32)
    before = net(x), net.inverse(x)
    net.double()
    assert {p.dtype for p in net.parameters()} == {F64}
    net.float()
    assert torch.equal(net(x), before[0])
    assert torch.equal(net.inverse(x), before[1])


@every_network
def test_the_state_goes_from_one_dtype_to_another(case):
    net, x = case.net(F32), case.points(5)
    other = case.net(F64, seed=50)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net.double()(x))


@every_network
def test_the_transforms_of_torch_work_over_the_forward_direction(case):
    net, x = case.net(), case.points()
    full = torch.func.jacrev(net)(x)
    torch.testing.assert_close(torch.func.jacfwd(net)(x), full, rtol=1e-10, atol=1e-11)
    v = case.points(seed=8)
    tangent = torch.func.jvp(net, (x,), (v,))[1]
    torch.testing.assert_close(tangent, torch.tensordot(full, v, dims=v.ndim), rtol=1e-10, atol=1e-11)
    several = torch.stack([x, v])
    torch.testing.assert_close(torch.func.vmap(net)(several), torch.stack([net(x), net(v)]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["smooth_abs", "low rank", "blocks of one's own"])
def test_vmap_over_the_inverse_fails_as_documented_and_a_batch_does_what_was_meant(name):
    net, z = NETWORKS[name].net(), NETWORKS[name].points(3)
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(net.inverse)(z)
    one_by_one = torch.stack([net.inverse(point) for point in z])
    torch.testing.assert_close(net.inverse(z), one_by_one, rtol=1e-8, atol=1e-8)
    assert "They do not work\nover ``net.inverse(z)``" in networks.__doc__


@every_network
def test_everything_works_in_inference_mode_and_without_gradients(case):
    net, x = case.net(), case.points(4)
    if isinstance(net, SineNetwork) and torch.__version__.startswith("2.4."):
        pytest.skip("torch 2.4 has no forward mode in its inference mode, which derives the Jacobian of such a block")
    metric = positive_definite(case.dim, seed=10)
    expected = [net(x), net.inverse(x), networks.forward_and_jacobian(net, x)[1]]
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            results = [net(x), net.inverse(x), networks.forward_and_jacobian(net, x)[1]]
            networks.forward_and_log_det(net, x)
            networks.forward_and_divergence(net, x, metric=metric)
        for ours, theirs in zip(results, expected, strict=True):
            torch.testing.assert_close(ours.clone(), theirs.detach(), rtol=1e-9, atol=1e-9)
            assert not ours.requires_grad


@every_network
def test_autocast_rounds_nothing(case):
    """Under bfloat16 matrix products the round trip would miss by some 1e-2."""
    if not case.mixes_dtypes:
        pytest.skip("a bare module does as torch does")
    net, x = case.net(F32), case.points(6, dtype=F32)
    z = case.points(6, seed=4, dtype=F32)
    metric = positive_definite(case.dim, seed=11).float()

    def results() -> list[Tensor]:
        losses = [LOSSES[name](net, x, z, metric=metric, generator=oracles.generator(1)) for name in ("log_det",)]
        losses.append(LOSSES["divergence"](net, x, z, metric=metric, generator=oracles.generator(1)))
        losses.append(LOSSES["approximation"](net, x, z, metric=metric))
        losses.append(LOSSES["reconstruction"](net, x, z))
        return [net(x), net.inverse(x), networks.forward_and_jacobian(net, x)[1], *losses]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


# What is derived for large networks


class Diagonal(networks.InvertibleNetwork):
    """x + a tanh(x) in 20 dimensions: its divergence is estimated."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.linspace(0.1, 0.9, 20, dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.slope * torch.tanh(x)


@pytest.mark.parametrize("metric", [False, True])
def test_the_derived_divergence_in_many_dimensions_is_an_unbiased_estimate(metric):
    net, x = Diagonal().requires_grad_(False), oracles.randn(1, 20, seed=12)
    weight = positive_definite(20, seed=13) if metric else None
    jacobian = networks.forward_and_jacobian(net, x)[1].detach()
    exact = ((torch.eye(20, dtype=F64) if weight is None else weight) @ jacobian).diagonal(dim1=-2, dim2=-1).sum()
    many = x.expand(20_000, -1)
    with torch.no_grad():
        value, estimate = net.forward_and_divergence(many, metric=weight, generator=oracles.generator(1))
    torch.testing.assert_close(value, net(many))
    error = float(estimate.mean() - exact)
    assert abs(error) <= 5 * float(estimate.std()) / 20_000**0.5 + 1e-10
    again = net.forward_and_divergence(many, metric=weight, generator=oracles.generator(1))[1].detach()
    other = net.forward_and_divergence(many, metric=weight, generator=oracles.generator(2))[1]
    assert torch.equal(again, estimate)
    if metric:  # without one the Jacobian is diagonal, and the estimate exact
        assert not torch.equal(other, estimate)
        assert float(estimate.std()) > 0.1
    else:
        torch.testing.assert_close(estimate, exact.expand(20_000), rtol=1e-12, atol=0)


def test_the_gradient_of_the_derived_divergence_in_many_dimensions_is_that_of_the_trace():
    """The Jacobian is diagonal, so that the estimate is exact: d/da sum_i (1 + a_i tanh'(x_i)) = tanh'(x)."""
    net, x = Diagonal(), oracles.randn(3, 20, seed=14).requires_grad_()
    _, divergence = net.forward_and_divergence(x, generator=oracles.generator(1))
    slope, point = torch.autograd.grad(divergence.sum(), [net.slope, x])
    squared = 1 - torch.tanh(x.detach()).square()
    torch.testing.assert_close(slope, squared.sum(0), rtol=1e-12, atol=1e-13)
    expected = -2 * net.slope.detach() * torch.tanh(x.detach()) * squared
    torch.testing.assert_close(point, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dim", [2, 20])
def test_a_network_that_autograd_cannot_follow_is_named(dim):
    net, x = Wrong(forward=lambda x: x.detach()), torch.zeros(5, dim)
    for method in (networks.forward_and_jacobian, networks.forward_and_divergence):
        with pytest.raises(ValueError, match=r"^net\(x\) must be differentiable in x"):
            method(net, x)


def test_the_jacobian_of_a_constant_is_zero():
    net = nn.Linear(2, 2, bias=True)
    net.forward = lambda x: net.bias.expand_as(x)
    assert not networks.forward_and_jacobian(net, torch.ones(3, 2))[1].any()


def test_the_derived_log_determinant_of_tiny_and_huge_maps_is_finite():
    class Scaling(networks.InvertibleNetwork):
        factor = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * x

    net, x = Scaling(), torch.zeros(3, 2)
    for net.factor in (1e-30, 1e30):
        log_det = net.forward_and_log_det(x)[1]
        expected = 2 * torch.tensor(net.factor, dtype=F64).log()
        torch.testing.assert_close(log_det.double(), expected.expand(3), rtol=1e-6, atol=0)


# What a foreign network may get wrong


class Wrong(nn.Module):
    """A network whose methods return something that would be broadcast, or that no loss can use."""

    def __init__(self, **results: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.results = results
        for name in results.keys() - {"forward"}:
            setattr(self, name, results[name])

    def forward(self, x: Tensor) -> object:
        return self.results.get("forward", lambda x: x)(x)


WRONG = {
    "value of one column": (
        "approximation",
        r"^net\(x\) must have shape \(5, 2\), got \(5, 1\)",
        {"forward": lambda x: x[:, :1]},
    ),
    "value and more": ("approximation", r"^net\(x\) must be a tensor, got tuple", {"forward": lambda x: (x, x)}),
    "no inverse": ("reconstruction", r"^net must have a method inverse\(z\), got Wrong", {}),
    "inverse of one point": (
        "reconstruction",
        r"^net\.inverse\(z\) must have shape \(5, 2\), got \(2,\)",
        {"inverse": lambda z: z[0]},
    ),
    "sum of log-determinants": (
        "log_det",
        r"^the log-determinant of .* must have shape \(5,\), got \(\)",
        {"forward_and_log_det": lambda x: (x, x.sum())},
    ),
    "log-determinants as a column": (
        "log_det",
        r"^the log-determinant of .* must have shape \(5,\), got \(5, 1\)",
        {"forward_and_log_det": lambda x: (x, x[:, :1])},
    ),
    "mean divergence": (
        "divergence",
        r"^the divergence of .* must have shape \(5,\), got \(\)",
        {"forward_and_divergence": lambda x: (x, x.mean())},
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_results_of_another_shape_are_named_and_never_broadcast(kind):
    loss, message, results = WRONG[kind]
    x = torch.zeros(5, 2)
    with pytest.raises((ValueError, TypeError), match=message):
        LOSSES[loss](Wrong(**results), x, x)


def test_a_divergence_that_knows_no_metric_is_refused_where_one_is_given():
    x = torch.zeros(5, 2)
    net = Wrong(forward_and_divergence=lambda x: (x, x[:, 0]))
    LOSSES["divergence"](net, x, x)
    with pytest.raises(TypeError, match=r"must accept metric= to be used with a metric"):
        LOSSES["divergence"](net, x, x, metric=torch.eye(2))


def test_an_inverse_may_be_a_module_of_its_own():
    class Halving(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z / 2

    net = Wrong(forward=lambda x: 2 * x, inverse=Halving())
    x = oracles.randn(5, 2, seed=1)
    assert invlib.reconstruction_loss(net, x, 2 * x).item() == 0


@pytest.mark.parametrize("net", [None, 3, "net"])
@every_loss
def test_something_else_than_a_network_is_named(net, loss):
    with pytest.raises(TypeError, match=r"^net must be a network, got"):
        LOSSES[loss](net, torch.zeros(5, 2), torch.zeros(5, 2))


def test_a_subclass_without_its_two_methods_says_which():
    net, x = networks.InvertibleNetwork(), torch.zeros(5, 2)
    with pytest.raises(NotImplementedError, match=r"must define forward\(x\)"):
        net(x)
    with pytest.raises(NotImplementedError, match=r"must define inverse\(z\)"):
        net.inverse(x)


# Blocks


def dense_block(dim: int, width: int, activation: Activation, members: int = 2) -> DenseBlock:
    net = IResNet(
        dim,
        blocks=1,
        width=width,
        lipschitz=0.8,
        members=members,
        activation=activation,
        dtype=F64,
        generator=oracles.generator(1),
    )
    (block,) = net.residual_blocks()
    return block.detached(F64)


def sine_block(dim: int) -> SineBlock:
    weight = oracles.randn(2, dim, dim, seed=20)
    return SineBlock(0.8 * weight / torch.linalg.matrix_norm(weight, 2)[:, None, None])


class OnlyWhatItMust(ResidualBlock):
    """Another block, of which everything but the value and the bound is derived."""

    def __init__(self, block: ResidualBlock) -> None:
        self.tensors = [*block.weights, *block.biases]
        self.activation = block.activation

    @property
    def block(self) -> DenseBlock:
        return DenseBlock(self.tensors[:3], self.tensors[3:], activation=self.activation)

    def value(self, x: Tensor) -> Tensor:
        return self.block.value(x)

    def bound(self) -> Tensor:
        return self.block.bound()


def conv_block(shape: tuple[int, ...], **options: object) -> Block:
    net = convolutional(shape, members=2, dtype=F64, **options)(31)
    return net.requires_grad_(False).residual_blocks()[0]


BLOCKS: dict[str, tuple[Block, int]] = {
    "convolution on a circle": (conv_block((6,)), 6),
    "convolution with edges": (conv_block((2, 3), edges="reflecting"), 6),
    **{name: (dense_block(3, 6, activation), 3) for name, activation in ACTIVATIONS.items()},
    **{f"{name}, low rank": (dense_block(3, 2, activation), 3) for name, activation in ACTIVATIONS.items()},
    "activation of one's own": (dense_block(3, 6, SINE), 3),
    "one dimension": (dense_block(1, 4, SINE), 1),
    "affine": (AffineBlock(torch.stack([MATRIX, MATRIX.T]), oracles.randn(2, 1, 3, seed=21)), 3),
    "affine, shared, without shift": (AffineBlock(MATRIX[None]), 3),
    "block of one's own": (sine_block(3), 3),
    "block of one's own in the plane": (sine_block(2), 2),
    **{
        f"{name}, derived": (OnlyWhatItMust(dense_block(3, 6, activation)), 3)
        for name, activation in ACTIVATIONS.items()
    },
}

every_block = pytest.mark.parametrize(("block", "dim"), BLOCKS.values(), ids=BLOCKS)


def block_jacobians(block: Block, x: Tensor) -> Tensor:
    """D (x + f), (E, B, n, n), by reverse mode, one point of all members after the other."""
    members = len(x)
    columns = []
    for point in x.unbind(1):
        full = torch.func.jacrev(lambda p: block.value(p.unsqueeze(1)).squeeze(1))(point)
        columns.append(torch.stack([full[e, :, e] for e in range(members)]))
    return torch.stack(columns, dim=1)


@every_block
def test_derivatives_of_a_block_are_those_of_reverse_mode(block, dim):
    x, v = oracles.randn(2, 5, dim, seed=22), oracles.randn(2, 5, dim, seed=23)
    expected = block_jacobians(block, x)
    value, at = block.linearize(x)
    torch.testing.assert_close(value, block.value(x), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(block.jacobian(at).expand_as(expected), expected, rtol=1e-11, atol=1e-12)
    value, jacobian = block.value_and_jacobian(x)
    torch.testing.assert_close(value, block.value(x), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(jacobian.expand_as(expected), expected, rtol=1e-11, atol=1e-12)
    value, log_det = block.value_and_log_det(x)
    torch.testing.assert_close(value, block.value(x), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(expected).logabsdet, rtol=1e-10, atol=1e-11)
    tangent = torch.einsum("ebij,ebj->ebi", expected, v)
    torch.testing.assert_close(block.tangent(at, v), tangent, rtol=1e-11, atol=1e-12)


@every_block
def test_the_solver_of_a_block_solves_with_its_jacobian_and_so_does_its_gradient(block, dim):
    x, r, factors = (oracles.randn(2, 5, dim, seed=24 + k) for k in range(3))
    r.requires_grad_()
    expected = block_jacobians(block, x)
    solution = block.solver(block.linearize(x)[1], tol=1e-13)(r)
    torch.testing.assert_close(solution, torch.linalg.solve(expected, r), rtol=1e-9, atol=1e-10)
    (gradient,) = torch.autograd.grad((factors * solution).sum(), r)
    torch.testing.assert_close(gradient, torch.linalg.solve(expected.mT, factors), rtol=1e-9, atol=1e-10)


@every_block
@pytest.mark.parametrize("terms", [1, 4, 12])
def test_the_series_of_a_block_misses_its_log_determinant_by_at_most_the_stated_bias(block, dim, terms):
    """On average over all signs it is the truncated series of traces of powers."""
    x = oracles.randn(2, 3, dim, seed=27)
    jacobian = block_jacobians(block, x)
    exact = torch.linalg.slogdet(jacobian).logabsdet
    repeated = oracles.for_every_sign(x)
    signs = oracles.all_signs(dim).repeat(3, 1).expand_as(repeated)
    value, _ = block.estimate_log_det(block.linearize(repeated)[1], signs, terms)
    mean = oracles.mean_over_signs(value, dim)
    bias = block.log_det_bias(dim, terms)
    assert bool(((mean - exact).abs() <= bias.unsqueeze(-1) + 1e-12).all())
    if isinstance(block, AffineBlock):
        assert not bias.any()
        return
    branch = jacobian - torch.eye(dim, dtype=F64)
    series = sum(
        (-1) ** (k + 1) * torch.linalg.matrix_power(branch, k).diagonal(dim1=-2, dim2=-1).sum(-1) / k
        for k in range(1, terms + 1)
    )
    torch.testing.assert_close(mean, series, rtol=1e-10, atol=1e-11)
    bound = block.bound()
    expected = block.rank(dim) * bound ** (terms + 1) / ((terms + 1) * (1 - bound))
    torch.testing.assert_close(bias, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("dim", "width", "rank"), [(7, 2, 2), (7, 7, 7), (2, 7, 2)])
def test_the_bias_bound_knows_the_rank_of_a_block(dim, width, rank):
    """tr(J^k) has at most `width` terms: 2 instead of 7 of them, and it is the truth that the bound covers."""
    net = oracles.random_network(dim, seed=28, width=width, lipschitz=0.6, gain=3.0)
    x = oracles.randn(3, dim, seed=29)
    with oracles.every_sign(dim):
        _, estimate = net.estimate_log_det(oracles.for_every_sign(x), terms=3)
    bounds = net.block_bounds()
    expected = rank * (bounds**4 / (4 * (1 - bounds))).sum()
    assert estimate.bias_bound == pytest.approx(float(expected), rel=1e-12)
    error = oracles.mean_over_signs(estimate.value, dim) - net.forward_and_log_det(x)[1].detach()
    assert float(error.abs().max()) <= estimate.bias_bound


@every_block
def test_the_bounds_of_a_block_hold_for_pairs_near_and_far(block, dim):
    a = 3 * oracles.randn(2, 400, dim, seed=30)
    limits = [torch.as_tensor(side, dtype=F64).expand(2) for side in block.limits]
    sharp = [side.expand(2) for side in block.bounds()]
    for distance in (1e-4, 1.0, 100.0):
        b = a + distance * oracles.randn(2, 400, dim, seed=31)
        ratio = (block.value(a) - block.value(b)).norm(dim=-1) / (a - b).norm(dim=-1)
        for lower, upper in (limits, sharp):
            assert bool((ratio >= lower.unsqueeze(-1) * (1 - 1e-9)).all())
            assert bool((ratio <= upper.unsqueeze(-1) * (1 + 1e-9)).all())


@every_block
@pytest.mark.parametrize("guess", [False, True])
def test_a_block_is_inverted_to_its_tolerance(block, dim, guess):
    x = 2 * oracles.randn(2, 50, dim, seed=32)
    z, tol = block.value(x), torch.full((2, 50), 1e-10, dtype=F64)
    start = x + 0.1 if guess else None
    found, iterations = block.invert(z, start, tol, 100)
    assert bool(((block.value(found) - z).norm(dim=-1) <= 1e-10).all())
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)
    assert iterations.shape == (2, 50)
    assert bool(iterations.any()) == block.iterative


@every_block
def test_a_block_in_another_dtype_or_without_gradients_is_the_same_block(block, dim):
    x = oracles.randn(2, 5, dim, seed=33)
    single = block.to(F32)
    assert single.value(x.float()).dtype == F32
    torch.testing.assert_close(single.value(x.float()).double(), block.value(x), rtol=1e-5, atol=1e-5)
    jacobian = single.value_and_jacobian(x.float())[1].double()
    torch.testing.assert_close(jacobian, block.value_and_jacobian(x)[1], rtol=1e-4, atol=1e-5)
    assert not block.detached(F64).value(x).requires_grad


def test_a_bound_that_is_not_below_one_certifies_nothing_and_says_so():
    block = SineBlock(torch.stack([0.5 * torch.eye(2, dtype=F64), 1.5 * torch.eye(2, dtype=F64)]))
    x = torch.zeros(2, 3, 2, dtype=F64)
    for call in (
        block.bounds,
        lambda: block.limits,
        lambda: block.log_det_bias(2, 3),
        block.certified_bound,
    ):
        with pytest.raises(ValueError, match=r"^bound\(\) of SineBlock must be less than one, got \[0\.5, 1\.5"):
            call()

    class Network(ResidualNetwork):
        def residual_blocks(self) -> list[ResidualBlock]:
            return [SineBlock(block.weight + 0 * self.zero)]

    net = Network(2, members=2)
    net.zero = nn.Parameter(torch.zeros((), dtype=F64))
    for method in (net.inverse, net.solve_inverse, lambda x: net.lipschitz_bounds(), lambda x: net.block_bounds()):
        with pytest.raises(ValueError, match=r"^bound\(\) of SineBlock must be less than one"):
            method(x)
    assert "Network(" in repr(net)


# Second derivatives


@pytest.mark.parametrize("activation", ["smooth_abs", "tanh"])
@pytest.mark.parametrize("width", [2, 6])
@pytest.mark.parametrize("exact", [True, False])
def test_second_derivatives_of_the_log_determinant_raise_whatever_the_width(width, activation, exact):
    """Of the estimate they would be wrong without a word: it holds the resolvent fixed."""
    net = IResNet(3, width=width, activation=activation, exact=exact, dtype=F64, generator=oracles.generator(1))
    x = oracles.randn(4, 3, seed=34).requires_grad_()
    _, log_det = net.forward_and_log_det(x)
    with pytest.raises(
        DifferentiatedTwiceError, match=r"has first derivatives only: call backward without create_graph"
    ):
        torch.autograd.grad(log_det.sum(), x, create_graph=True)
    (gradient,) = torch.autograd.grad(net.forward_and_log_det(x)[1].sum(), x)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("activation", ["tanh", "softplus", "swish"])
def test_second_derivatives_of_the_divergence_are_right_where_they_exist(activation):
    net = IResNet(2, width=4, activation=activation, dtype=F64, generator=oracles.generator(1))
    x = oracles.randn(4, 2, seed=35).requires_grad_()

    def slope(points: Tensor) -> Tensor:
        return torch.autograd.grad(net.forward_and_divergence(points)[1].sum(), points, create_graph=True)[0]

    direction = oracles.randn(4, 2, seed=36)
    (second,) = torch.autograd.grad((slope(x) * direction).sum(), x)
    step = 1e-5
    above, below = (slope((x + sign * step * direction).detach().requires_grad_()) for sign in (1, -1))
    torch.testing.assert_close(second, (above - below).detach() / (2 * step), rtol=1e-6, atol=1e-8)


# The coupling flow


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_a_coupling_flow_starts_as_the_identity_and_each_layer_keeps_what_its_neighbours_move(dim):
    net = CouplingFlow(dim, generator=oracles.generator(0)).double()
    x = oracles.randn(4, dim, seed=40)
    assert torch.equal(net(x), x)
    assert not net.forward_and_log_det(x)[1].any()
    moved = coupling(dim)(1).double()
    for layer, following in itertools.pairwise(moved.layers):
        log_scale, shift = layer(x)
        assert not log_scale[:, layer.mask].any()
        assert not shift[:, layer.mask].any()
        assert bool(shift[:, ~layer.mask].all())
        assert torch.equal(following.mask, ~layer.mask)
        again = layer(torch.where(layer.mask, x, 7.0))  # it does not see what it moves
        assert torch.equal(again[0], log_scale)
        assert torch.equal(again[1], shift)


def test_the_scales_of_a_coupling_flow_are_bounded():
    net = coupling(3)(1).double()
    with torch.no_grad():
        net.layers[0].last.weight.mul_(1e6)
    log_scale, _ = net.layers[0](oracles.randn(100, 3, seed=41))
    assert float(log_scale.detach().abs().max()) == pytest.approx(2.0, rel=1e-12)
    x = oracles.randn(5, 3, seed=42)
    torch.testing.assert_close(net(net.inverse(x)), x, rtol=1e-9, atol=1e-9)


def test_a_coupling_flow_has_as_many_layers_as_asked_for():
    assert len(CouplingFlow(3, layers=4).layers) == 4


def test_the_weights_of_a_coupling_flow_are_determined_by_the_generator_alone():
    state = torch.get_rng_state()
    first, second = (CouplingFlow(2, generator=oracles.generator(1)).state_dict() for _ in range(2))
    other = CouplingFlow(2, generator=oracles.generator(2)).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layers.0.first.weight"], other["layers.0.first.weight"])


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"^dim must be an integer >= 2, got 1", lambda: CouplingFlow(1)),
        (r"^layers must be an integer >= 1, got 0", lambda: CouplingFlow(2, layers=0)),
        (r"^width must be an integer >= 1, got 2\.5", lambda: CouplingFlow(2, width=2.5)),
        (r"^x must have shape \(\.\.\., 2\)", lambda: CouplingFlow(2)(torch.zeros(4, 3))),
        (r"^z must have shape \(\.\.\., 2\)", lambda: CouplingFlow(2).inverse(torch.zeros(4, 3))),
        (r"^x must be a torch tensor", lambda: CouplingFlow(2)([[0.0, 0.0]])),
    ],
)
def test_bad_arguments_of_a_coupling_flow_are_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_example_of_a_network_of_ones_own_stays_short():
    lines = Path(CouplingFlow.__init__.__code__.co_filename).read_text(encoding="utf-8")
    assert len(execute.code_lines(lines).splitlines()) <= 80
